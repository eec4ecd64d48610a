"""Labelled pictures that lie encoded in files, and are decoded when they are read."""

from __future__ import annotations

import os
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.datasets.base import Parted
from features.datasets.filedigests import FileDigests, Stamp, stamp
from features.datasets.images import Stored, read_square, stored
from features.download import file_digest
from features.errors import UserError


class Picture(NamedTuple):
    """A JPEG or PNG.

    Attributes
    ----------
    where : its file; or, where ``content`` is given, what names it in a message.
    content : its bytes; None: those of the file.
    """

    where: Path | str
    content: bytes | None = None


class Encoded(Parted):
    """JPEGs and PNGs, each with a class, in files of one or of many.

    A subclass sets ``_root`` and ``_files``, calls ``_divide`` and has the methods below. Once the digest has
    been taken, a file that has changed since is refused and named.
    """

    _root: Path  # the folder that paths are relative to
    _files: dict[str, list[str]]  # the paths of each part, in order
    _kind: str = ""  # what the digests of files are of, if not of their bytes
    _digest: str | None = None
    _stamps: dict[str, list[Stamp]]

    @abstractmethod
    def _picture(self, part: str, row: int) -> Picture:
        """The picture in a row of a part."""

    @abstractmethod
    def _file_of(self, part: str, row: int) -> int:
        """Which of the part's files holds a row."""

    @abstractmethod
    def _whole_digest(self, digests: dict[str, list[str]]) -> str:
        """The digest of all, from those of each part's files."""

    def _file_digest(self, path: Path) -> str:
        """The digest of the pictures in a file."""
        return file_digest(path)

    def digest(self, fresh: bool = False) -> str:
        if self._digest is not None and not fresh:
            return self._digest
        with FileDigests(self._root, fresh, self._file_digest, self._kind) as known:
            found = list(known.digests([path for paths in self._files.values() for path in paths]))
        digests, self._stamps, start = {}, {}, 0
        for part, paths in self._files.items():
            of_part = found[start : start + len(paths)]
            digests[part] = [digest for digest, _ in of_part]
            self._stamps[part] = [stamp_ for _, stamp_ in of_part]
            start += len(paths)
        self._digest = self._whole_digest(digests)
        return self._digest

    def read(self, split: str, rows: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
        part, inner = self._part_of[split], self._rows_of[split][rows]
        out = np.empty((len(rows), size, size, 3), dtype=np.uint8)

        def decode(place: int, picture: Picture) -> None:
            try:
                out[place] = read_square(picture.where, size, picture.content)
            finally:  # also of one that cannot be read, this is why
                self._refuse_changed(part, int(inner[place]))

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the GIL
            pictures = (self._picture(part, int(row)) for row in inner)
            for _ in pool.map(decode, range(len(rows)), pictures):
                pass
        return out

    def _refuse_changed(self, part: str, row: int) -> None:
        """Name the file of a row if it is no longer what the digest saw."""
        if self._digest is None:
            return
        number = self._file_of(part, row)
        path = self._root / self._files[part][number]
        with suppress(OSError):  # a file that is gone could not be read, and that is reported
            if stamp(path) != self._stamps[part][number]:
                raise UserError(f"{path} has changed since its digest was taken; run this again") from None

    def stored(self, split: str, row: int) -> Stored:
        whole = int(self._rows[split][row])
        return stored(*self._picture(self._part_of[split], int(self._rows_of[split][whole])))
