"""Where the files of a dataset lie: in folders of this machine, or anywhere that has the same methods."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from features.datasets.images import Source
from features.errors import UserError
from features.files import file_digest, is_file
from features.words import is_utf8

# Size in bytes and a number that changes with the content, by which a file is known again without being read.
Stamp = tuple[int, int]


def stamp(path: Path) -> Stamp:
    """The stamp of a file of this machine: its size, and its time of change in nanoseconds."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


class Storage(Protocol):
    """Files below a root; their paths are relative to it, with ``/`` between the names.

    It pickles small, and reads the same files wherever they can be seen.

    Attributes
    ----------
    threads : how many files are read at once.
    far : whether a file takes long to come. Then what comes is proved to be what :meth:`stamp` is of.
    """

    threads: int
    far: bool

    @property
    def name(self) -> str:
        """What the root is called."""

    def __str__(self) -> str:
        """The root, for people."""

    def folders(self, path: str = "") -> list[str]:
        """The names of the visible folders in a folder, or in the root, in ascending order."""

    def files(self, folders: Sequence[str]) -> Iterator[list[str]]:
        """The names of the files in each of some folders, in any order."""

    def normal(self, path: str) -> str:
        """One spelling of a path that may have several; UserError where it is none."""

    def where(self, path: str) -> str:
        """What names a file in a message."""

    def has(self, path: str) -> bool:
        """Whether there is such a file."""

    def stamp(self, path: str) -> Stamp:
        """The stamp of a file; OSError where there is none."""

    def digest(self, path: str) -> str:
        """The hex SHA-256 of a file's bytes; OSError where it cannot be read."""

    def at(self, path: str) -> Source:
        """A file, to be read."""


class Disk:
    """Files in folders that this machine sees. Links are followed.

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
        """Names in a folder, which must be UTF-8."""
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
    """Whether it is to be read as a file: of a link to itself that is tried, and then reported."""
    try:
        return entry.is_file()
    except OSError:
        return True
