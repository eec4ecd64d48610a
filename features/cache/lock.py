"""The lock of a cache, and removal of what interrupted writers leave behind."""

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

LONGEST = 200  # bytes read from the file with the owner
ATTEMPTS = 5  # to lock, as the previous owner may be removing the folder


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Hold the lock for writing a cache and its shards; the lock of a dead process is free.

    Partial files of dead writers are removed. At the end the folder of shards is removed if it contains
    neither shards nor finished parts.

    Raises
    ------
    UserError
        Another process holds the lock, or the folder cannot be written.
    """
    parts = parts_of(path)
    lock = FileLock(parts / "lock", timeout=1)  # readers hold it briefly to find the writer
    for attempt in range(1, ATTEMPTS + 1):
        try:
            make_folder(parts)
            lock.acquire()
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            (parts / "owner").unlink(missing_ok=True)  # opening a named pipe would block
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
    """The folder of a cache's shards and lock."""
    return path.with_suffix(".parts")


def finished_of(path: Path) -> Path:
    """The folder of finished parts of a cache in several files, until it is complete."""
    return parts_of(path) / "finished"


def owner_of(parts: Path) -> str:
    """The process that holds the lock in a folder of shards, in words."""
    try:
        with open_regular(parts / "owner") as stream:
            return stream.read(LONGEST).decode(errors="replace") or "another process"
    except OSError:
        return "another process"


def clear(path: Path) -> None:
    """Remove shards and partial files that a killed writer may have left beside a finished cache."""
    if parts_of(path).exists() or path.with_suffix(".tmp").exists():
        with suppress(UserError), writing(path):  # the cache is complete in any case
            for shard in parts_of(path).glob("*.shard"):
                shard.unlink(missing_ok=True)
            shutil.rmtree(finished_of(path), ignore_errors=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged cache, so that it is neither read nor lost; the caller holds the lock."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    try:
        os.replace(path, aside)
    except OSError as error:
        raise UserError(f"cannot set {path} aside: {error.strerror}; remove it yourself") from None
    return aside
