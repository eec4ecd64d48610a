"""Storage of a dataset's files: the protocol, and local folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from features.datasets.images import Source
from features.errors import UserError
from features.files import file_digest, is_file
from features.words import is_utf8

# Size in bytes, and a number that changes with the content: identifies a file state without reading it.
Stamp = tuple[int, int]


def stamp(path: Path) -> Stamp:
    """The stamp of a local file: its size, and its modification time in nanoseconds."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


class Storage(Protocol):
    """Files below a root; paths are relative to it, with ``/`` as separator.

    Pickles without the files' content, for other machines that see the same files.

    Attributes
    ----------
    threads : files read at a time.
    far : whether reading has a high latency. Such a storage verifies each read against :meth:`stamp`.
    """

    threads: int
    far: bool

    @property
    def name(self) -> str:
        """The name of the root."""

    def __str__(self) -> str:
        """The root, for messages."""

    def folders(self, path: str = "") -> list[str]:
        """The names of the visible folders in a folder (empty: the root), ascending."""

    def files(self, folders: Sequence[str]) -> Iterator[list[str]]:
        """The names of the files in each of these folders, in any order."""

    def normal(self, path: str) -> str:
        """The normalised form of a path; UserError if it is invalid."""

    def where(self, path: str) -> str:
        """The full name of a file, for messages."""

    def has(self, path: str) -> bool:
        """Whether the file exists."""

    def stamp(self, path: str) -> Stamp:
        """The stamp of a file; OSError if it does not exist."""

    def digest(self, path: str) -> str:
        """The hex SHA-256 of a file's bytes; OSError if it cannot be read."""

    def at(self, path: str) -> Source:
        """A file that can be opened."""


class Disk:
    """Files in local or mounted folders; symbolic links are followed.

    Parameters
    ----------
    root : the folder; absolute.
    """

    far = False

    def __init__(self, root: Path) -> None:
        self._root = root
        self.name = root.name
        self.threads = os.cpu_count() or 1

    def __str__(self) -> str:
        return str(self._root)

    def folders(self, path: str = "") -> list[str]:
        folders = (entry.name for entry in (self._root / path).iterdir() if entry.is_dir())
        return sorted(self._texts(path, (name for name in folders if not name.startswith("."))))

    def files(self, folders: Sequence[str]) -> Iterator[list[str]]:
        for folder in folders:
            with os.scandir(self._root / folder) as entries:
                yield list(self._texts(folder, (entry.name for entry in entries if _is_file(entry))))

    def _texts(self, folder: str, names: Iterable[str]) -> Iterator[str]:
        """Yield names in a folder, and refuse those that are not UTF-8."""
        for name in names:
            if not name.isprintable() and not is_utf8(name):
                raise UserError(f"{str(self._root / folder / name)!a}: not a UTF-8 name; rename it")
            yield name

    def normal(self, path: str) -> str:
        return os.path.normpath(path)

    def where(self, path: str) -> str:
        return str(self._root / path)

    def has(self, path: str) -> bool:
        return is_file(self._root / path)

    def stamp(self, path: str) -> Stamp:
        return stamp(self._root / path)

    def digest(self, path: str) -> str:
        return file_digest(self._root / path)

    def at(self, path: str) -> Path:
        return self._root / path


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether to read an entry as a file; True for a broken link, so that reading it reports the error."""
    try:
        return entry.is_file()
    except OSError:
        return True
