"""Files: written atomically, and read only if they are regular files."""

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

LONGEST_PATH, LONGEST_NAME = (
    4095,
    255,
)  # bytes: PATH_MAX less the final NUL, and NAME_MAX, of Linux


def given_path(name: str, value: str) -> Path:
    """A path given by the user, with ``~`` expanded.

    Parameters
    ----------
    name : the parameter or variable, for the message.

    Raises
    ------
    UserError
        The path is empty, not UTF-8 (or lies in a folder that is not), too long for Linux or part of a loop
        of symbolic links, or ``~`` names an unknown user.
    """
    shown = f"{name}={short(value)}"
    if not value:
        raise UserError(f"{name}= is empty: expected a path; give one or leave it out")
    given_text(name, value)
    if "\0" in value:  # possible from Python only
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
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        if isinstance(error, RuntimeError) or error.errno == errno.ELOOP:
            raise UserError(f"{shown}: a symbolic link there points to itself; remove it") from None
        whole = Path.cwd() / path
    given_text(name, str(whole))
    return path


def given_text(name: str, value: str) -> None:
    """Refuse text that is not UTF-8, since it can neither be printed nor stored as JSON."""
    if not is_utf8(value):
        raise UserError(f"{name}={value!a}: expected UTF-8; rename it, or give another")


def is_file(path: Path) -> bool:
    """Whether a path is a regular file; False if it cannot be accessed."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


class NotRegular(OSError):
    """A regular file was expected, but the path is a folder, named pipe, socket or device."""


def given_file(name: str, value: str, expected: str) -> Path:
    """The path of a regular file given by the user; see :func:`given_path`.

    Parameters
    ----------
    expected : what the file should contain, for the message.

    Raises
    ------
    UserError
        The path is invalid, or is not a regular file that can be read.
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
    """Open a regular file for reading bytes; symbolic links are followed.

    Reading from a named pipe, socket or device could block or never end. The open handle is checked, not
    the path, so that the file cannot be replaced in between.

    Raises
    ------
    NotRegular
        The path is not a regular file.
    OSError
        The file does not exist or cannot be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # does not wait for a writer of a pipe
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
    """Hex digest of a regular file's bytes. Raises as :func:`open_regular`."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically; see :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def save_file(path: Path, content: bytes) -> None:
    """Write a file atomically, and make the folders above it if they are missing.

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
    """Yield a temporary path, which replaces ``path`` at the end; the last of several writers wins.

    The temporary file is in the same folder, so that the rename is atomic, and has a random name: process
    numbers repeat in containers that share a folder. If the block fails it is removed.

    Parameters
    ----------
    suffix : of the temporary name, for writers that choose the format by it.
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
    """Rename a closed file or a folder durably: its content and then its name are synced to the disk."""
    sync(written)
    os.replace(written, path)
    sync(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents durably: their names are synced to the disk."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync(folder.parent)


def sync(path: Path) -> None:
    """Sync a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
