"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; see :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path, suffix: str = ".tmp") -> Iterator[Path]:
    """A file to write, which then takes the place of ``path``; of several writers the last one stands.

    It lies in the same folder, under a name that is this call's alone, which a process number would not
    make it: where containers share a folder, their numbers repeat. It is gone if the block fails.

    Parameters
    ----------
    suffix : what the name ends in, for a writer that decides by it what it writes.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}{suffix}")
    try:
        yield temporary
        put_in_place(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def put_in_place(written: Path, path: Path) -> None:
    """Rename a file that is closed, for good: its content and then its name reach the disk."""
    _sync(written)
    os.replace(written, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
