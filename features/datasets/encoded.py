"""Labelled JPEG and PNG images, decoded on demand."""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.datasets.base import Parted
from features.datasets.filedigests import FileDigests
from features.datasets.images import Source, Stored, Unreadable, read_square, stored
from features.datasets.storage import Stamp, Storage, stamp
from features.errors import UserError
from features.progress import progress

CHECKED = 256  # images decoded between two updates of the progress bar
CHECKED_AT = 32  # px to which they are resized: the smallest, since JPEGs are then decoded at reduced size
AHEAD = 64  # remote images that are read ahead


# Hex digests of the files of each part, (n,); empty for a file that cannot be read.
Digests = dict[str, NDArray[np.bytes_]]


class Picture(NamedTuple):
    """An encoded image, JPEG or PNG.

    Attributes
    ----------
    where : its file; if ``content`` is given, its name in messages.
    content : its bytes; None: read from the file.
    """

    where: Source | str
    content: bytes | None = None


@dataclass
class Pictures:
    """Some images; a call decodes those from start to stop. Picklable for machines that see the files.

    Attributes
    ----------
    pictures : the encoded images.
    files : the file of each.
    stamps : the :class:`Stamp` of each file when its digest was taken; None if it was not.
    size : pixels per side of the decoded images.
    """

    pictures: list[Picture]
    files: list[Path]
    stamps: list[Stamp] | None
    size: int

    def __call__(self, start: int, stop: int) -> NDArray[np.uint8]:
        out = np.empty((stop - start, self.size, self.size, 3), dtype=np.uint8)
        for place, pixels in enumerate(self._decoded(range(start, stop))):
            out[place] = pixels
        return out

    def _decoded(self, places: range) -> Iterator[NDArray[np.uint8]]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the GIL
            yield from pool.map(self._decode, places)

    def _decode(self, place: int) -> NDArray[np.uint8]:
        picture = self.pictures[place]
        try:
            pixels = read_square(picture.where, self.size, picture.content)
        except Unreadable as error:
            self._refuse_changed(place)  # a possible cause
            raise UserError(f"{error}; or leave such pictures out: skip_unreadable=1") from None
        self._refuse_changed(place)
        return pixels

    def _refuse_changed(self, place: int) -> None:
        """Refuse a file that has changed since its digest was taken."""
        if self.stamps is None:
            return
        path = self.files[place]
        with suppress(OSError):  # a missing file is reported where it is read
            if stamp(path) != self.stamps[place]:
                raise UserError(f"{path} has changed since its digest was taken; run this again") from None


@dataclass
class DistantPictures(Pictures):
    """Remote images, requested in ascending order: the next ones are read ahead.

    Attributes
    ----------
    pictures, files, stamps, size : as in :class:`Pictures`; no stamps if the storage itself detects changes.
    threads : images read and decoded at a time, in a pool shared by the process.
    """

    threads: int
    _begun: dict[int, Future[NDArray[np.uint8]]] = field(default_factory=dict, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_begun": {}}

    def _decoded(self, places: range) -> Iterator[NDArray[np.uint8]]:
        begun = self._begun
        for place in range(places.start, min(places.stop + AHEAD, len(self.pictures))):
            if place not in begun:
                begun[place] = _pool(self.threads).submit(self._decode, place)
        try:
            for place in places:
                yield begun.pop(place).result()
        except BaseException:
            while begun:
                begun.popitem()[1].cancel()
            raise


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "distant pictures")


class Encoded(Parted):
    """Labelled JPEGs and PNGs, in files of one image or of many.

    A subclass sets ``_storage`` and ``_files``, calls ``_divide`` and implements the methods below. A file
    that changes after its digest was taken is refused.

    With ``_skip`` every image is decoded once when the digest is taken. Unreadable images are left out, and
    the digest covers their ids too. The result is remembered by the digests of the files.
    """

    _storage: Storage  # of the files
    _files: dict[str, list[str]]  # the paths of each part's files, in order
    _kind: str = ""  # what the digests of files cover, if not their bytes
    _skip: bool = False  # leave out unreadable images
    _digest: str | None = None
    _stamps: dict[str, NDArray[np.int64]]  # (n, 2), of the files of each part

    @abstractmethod
    def _picture(self, part: str, row: int) -> Picture:
        """The encoded image in a row of a part."""

    @abstractmethod
    def _file_of(self, part: str, row: int) -> int:
        """The number of the file that contains a row of a part."""

    @abstractmethod
    def _count(self, part: str, number: int) -> int:
        """The number of rows in a file of a part."""

    @abstractmethod
    def _whole_digest(self, digests: Digests) -> str:
        """The digest of the dataset, from those of its files."""

    def _file_digest(self, path: str) -> str:
        """The digest of the images in a file."""
        return self._storage.digest(path)

    def digest(self, fresh: bool = False) -> str:
        if self._digest is not None and not fresh:
            return self._digest
        note = self.note if self._digest is None else None
        paths = [path for paths in self._files.values() for path in paths]
        every, stamps = np.empty(len(paths), "S64"), np.empty((len(paths), 2), np.int64)
        with FileDigests(self._storage, fresh, self._file_digest, self._kind) as known:
            for number, (digest, stamp_) in enumerate(known.digests(paths, missing=self._skip)):
                every[number], stamps[number] = digest, stamp_
            ends = np.cumsum([len(paths) for paths in self._files.values()])[:-1]
            digests = dict(zip(self._files, np.split(every, ends), strict=True))
            self._stamps = dict(zip(self._files, np.split(stamps, ends), strict=True))
            if self._skip:
                self._unreadable = self._find_unreadable(digests, known)
        self._digest = self._whole_digest(digests)
        if left_out := self.left_out():
            whole = "\0".join([self._digest, *left_out])
            self._digest = hashlib.sha256(whole.encode()).hexdigest()
            if note is not None:
                self.note = f"{note}; " * bool(note) + f"{len(left_out):,} unreadable pictures left out"
        return self._digest

    def unreadable(self, split: str) -> NDArray[np.int64]:
        if not self._skip:
            return super().unreadable(split)
        self.digest()
        rows = self._unreadable[self._part_of[split]]
        return np.flatnonzero(np.isin(self._rows_of[split], rows))

    def _find_unreadable(self, digests: Digests, known: FileDigests) -> dict[str, list[int]]:
        """The rows of each part whose images cannot be read."""
        found: dict[str, list[int]] = {part: [] for part in digests}
        counts = {
            part: [self._count(part, number) for number in range(len(digests[part]))] for part in digests
        }

        def rows() -> Iterator[tuple[str, int, int, str]]:
            """Part, first row, row and digest for every image of the files that were not checked before."""
            for part, of_part in digests.items():
                start = 0
                for digest, count, remembered in zip(
                    of_part, counts[part], known.unreadable(of_part), strict=True
                ):
                    if remembered is None:
                        yield from ((part, start, row, digest.decode()) for row in range(count))
                    else:
                        found[part] += [start + row for row in remembered]
                        bar.update(count)
                    start += count

        def readable(picture: Picture) -> bool:
            try:
                read_square(picture.where, CHECKED_AT, picture.content)
            except Unreadable:
                return False
            return True

        news: dict[str, list[int]] = {}
        with (
            ThreadPoolExecutor(self._storage.threads) as pool,
            progress(sum(map(sum, counts.values())), "look for unreadable", "img", delay=1) as bar,
        ):
            todo = rows()
            while group := list(islice(todo, CHECKED)):
                pictures = (self._picture(part, start + row) for part, start, row, _ in group)
                for (part, start, row, digest), well in zip(group, pool.map(readable, pictures), strict=True):
                    of_file = news.setdefault(digest, [])
                    if not well:
                        found[part].append(start + row)
                        of_file.append(row)
                bar.update(len(group))
                if len(news) > CHECKED:
                    last = group[-1][-1]  # the file whose rows may continue
                    known.remember({digest: rows for digest, rows in news.items() if digest != last})
                    news = {last: news[last]}
        known.remember(news)
        return found

    def read(self, split: str, rows: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
        return self._pictures(split, rows, size)(0, len(rows))

    def _pictures(self, split: str, rows: NDArray[np.int64], size: int) -> Pictures:
        part = self._part_of[split]
        inner = [int(row) for row in self._rows_of[split][rows]]
        pictures = [self._picture(part, row) for row in inner]
        if self._storage.far:
            return DistantPictures(pictures, [], None, size, self._storage.threads)
        numbers = [self._file_of(part, row) for row in inner]
        files = [Path(self._storage.where(self._files[part][number])) for number in numbers]
        stamps = None if self._digest is None else list(map(tuple, self._stamps[part][numbers].tolist()))
        return Pictures(pictures, files, stamps, size)

    def stored(self, split: str, row: int) -> Stored:
        whole = int(self._rows[split][row])
        return stored(*self._picture(self._part_of[split], int(self._rows_of[split][whole])))
