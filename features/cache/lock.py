"""The lock of a finished file: who may write it, and what its writers leave behind."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from features.errors import UserError
from features.files import make_folder, open_regular

LONGEST = 200  # bytes that tell an owner
ATTEMPTS = 5  # at a lock whose folder its last owner is just removing


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Be the only writer of a finished file and its shards; the lock of a process that died is free.

    What a dead writer has left half written goes; the folder of shards goes too where it holds none, and no
    finished part.

    Raises
    ------
    UserError
        Another process holds the lock, or the folder cannot be written.
    """
    parts = parts_of(path)
    lock = FileLock(parts / "lock", timeout=1)  # a reader that asks who writes holds it for a moment
    for attempt in range(1, ATTEMPTS + 1):
        try:
            make_folder(parts)
            lock.acquire()
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            (parts / "owner").unlink(missing_ok=True)  # a pipe in its place would wait for a reader
            (parts / "owner").write_text(f"process {os.getpid()} since {since}")
            for left in (path.with_suffix(".tmp"), *parts.glob("*.tmp"), *finished_of(path).glob("*.tmp")):
                left.unlink(missing_ok=True)
            break
        except Timeout:
            raise UserError(
                f"{path.name} is being written by {owner_of(parts)}; wait for it, then run this again"
            ) from None
        except OSError as error:
            lock.release()
            if attempt == ATTEMPTS or not isinstance(error, FileNotFoundError | FileExistsError):
                raise UserError(f"cannot write {parts}: {error.strerror}; choose another folder") from None
    try:
        yield
    finally:
        if not any(parts.glob("*.shard")) and not any(finished_of(path).glob("*.h5")):
            shutil.rmtree(parts, ignore_errors=True)
        lock.release()


def parts_of(path: Path) -> Path:
    """The folder of the shards of a finished file, and of its lock."""
    return path.with_suffix(".parts")


def finished_of(path: Path) -> Path:
    """Where the parts of a cache too large for one file are, until it is whole."""
    return parts_of(path) / "finished"


def owner_of(parts: Path) -> str:
    """Who holds the lock in a folder of shards."""
    try:
        with open_regular(parts / "owner") as stream:
            return stream.read(LONGEST).decode(errors="replace") or "another process"
    except OSError:
        return "another process"


def clear(path: Path) -> None:
    """Remove what a kill may have left beside a finished file: its shards, and a copy cut short."""
    if parts_of(path).exists() or path.with_suffix(".tmp").exists():
        with suppress(UserError), writing(path):  # it stands whole, whoever else is at work
            for shard in parts_of(path).glob("*.shard"):
                shard.unlink(missing_ok=True)
            shutil.rmtree(finished_of(path), ignore_errors=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that nothing reads it and nothing is lost; the caller is its writer."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    try:
        os.replace(path, aside)
    except OSError as error:
        raise UserError(f"cannot set {path} aside: {error.strerror}; remove it yourself") from None
    return aside
