"""Files that are written whole or not at all, and read only where they are regular ones."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from features.errors import UserError
from features.words import is_utf8, short

LONGEST_PATH, LONGEST_NAME = 4095, 255  # bytes: PATH_MAX without its end, and NAME_MAX, of Linux' limits.h


def given_path(name: str, value: str) -> Path:
    """A path as somebody gave it, with ``~`` replaced.

    Parameters
    ----------
    name : of the parameter or variable that it was given as.

    Raises
    ------
    UserError
        It is empty, or no file can be there: it, or the folder it lies in, is not UTF-8; it is longer than
        a path may be; a link in it leads to itself; or ``~`` names nobody.
    """
    shown = f"{name}={short(value)}"
    if not value:
        raise UserError(f"{name}= is empty: expected a path; give one or leave it out")
    given_text(name, value)
    if "\0" in value:  # which Python can say, and no command line
        raise UserError(f"{name}={value!a}: expected a path without \\x00; leave it out")
    try:
        path = Path(value).expanduser()
    except RuntimeError:
        raise UserError(f"{shown}: there is no such user here; give the path without ~") from None
    names = [len(part.encode()) for part in path.parts]
    if sum(names) + len(names) > LONGEST_PATH or max(names, default=0) > LONGEST_NAME:
        raise UserError(
            f"{shown}: expected a path of at most {LONGEST_PATH:,} bytes, and names of at most "
            f"{LONGEST_NAME}, got {len(value.encode()):,}; give a shorter one"
        )
    try:
        path.stat()
        whole = path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a link to itself, before Python 3.13
        if isinstance(error, RuntimeError) or error.errno == errno.ELOOP:
            raise UserError(f"{shown}: a link there leads to itself; put it right") from None
        whole = Path.cwd() / path
    given_text(name, str(whole))
    return path


def given_text(name: str, value: str) -> None:
    """Refuse what is not UTF-8: it could neither be shown nor kept in a JSON."""
    if not is_utf8(value):
        raise UserError(f"{name}={value!a}: expected UTF-8; rename it, or give another")


def is_file(path: Path) -> bool:
    """Whether a regular file is there; what cannot even be looked at is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


class NotRegular(OSError):
    """A folder, a named pipe, a socket or a device where a regular file was expected."""


def given_file(name: str, value: str, expected: str) -> Path:
    """The path of a regular file as somebody gave it; see :func:`given_path`.

    Parameters
    ----------
    expected : what the file should be, for the message.

    Raises
    ------
    UserError
        No file can be there, or none is; or a folder, a named pipe, a socket or a device is there; or it
        may not be read.
    """
    path = given_path(name, value)
    try:
        open_regular(path).close()
    except FileNotFoundError:
        raise UserError(f"{name}={value}: no such file; expected {expected}") from None
    except OSError as error:
        raise UserError(f"{name}={value}: {error.strerror}; expected {expected}") from None
    return path


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


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Hex digest of a regular file's bytes; raises as :func:`open_regular`."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; see :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def save_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and the folders above it where they are missing.

    Raises
    ------
    UserError
        The operating system refuses to write it.
    """
    try:
        make_folder(path.parent)
        write_whole(path, content)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; make room or choose another folder"
        ) from None


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
    """Rename a closed file, or a folder, for good: its content and then its name reach the disk."""
    sync(written)
    os.replace(written, path)
    sync(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are missing, for good: their names reach the disk."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync(folder.parent)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
