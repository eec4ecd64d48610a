"""Files that are written whole or not at all, and read only where they are regular ones."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path


class NotRegular(OSError):
    """A folder, a named pipe, a socket or a device where a regular file was expected."""


def open_regular(path: Path | str) -> BufferedReader:
    """A regular file, opened to be read as bytes; links are followed.

    A named pipe, a socket or a device would wait for somebody, or never end. It is the open handle that is
    looked at, so that nothing can take the file's place in between.

    Raises
    ------
    NotRegular
        There is something else.
    OSError
        There is no such file, or it may not be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe that nobody writes to is not waited for
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise NotRegular(errno.EINVAL, "Not a regular file", str(path)) from None
        raise
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        what = "Is a directory" if stat.S_ISDIR(mode) else "Not a regular file"
        raise NotRegular(errno.EINVAL, what, str(path))
    return open(handle, "rb")


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
