"""Rows in unnamed temporary files, which disappear with the process."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from features.ahead import read_ahead
from features.budget import gigabytes
from features.errors import UserError
from models.heads.blocks import Blocks, divided

PART = 1 << 30  # bytes per part, at most
PARTS = 4  # per memory limit: one in use, one read ahead, and copies made of them


class Spool(Blocks):
    """Rows written once, in order, and read in blocks.

    Parameters
    ----------
    folder : of the temporary file.
    shape : (n, d) of all rows.
    memory : memory limit in bytes, for blocks and fit together.

    Raises
    ------
    UserError
        The disk is full, or the folder cannot be written.
    """

    def __init__(self, folder: Path, shape: tuple[int, int], memory: int) -> None:
        self.shape, self.folder = shape, folder
        self.step, self.memory = divided(memory, shape[1])
        self._file = _File(folder, shape)
        self._added = 0

    def add(self, rows: NDArray[np.float32]) -> None:
        """Append rows (m, d)."""
        self._file.write(self._added, rows)
        self._added += len(rows)

    def __iter__(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        self.passes += 1
        for start in range(0, len(self), self.step):
            places = slice(start, min(start + self.step, len(self)))
            yield places, self._file.read(places.start, places.stop)


class Scattered:
    """A copy of rows in parts, each a random sample, for epochs in random order.

    Rows of a folder are sorted by class, and so are blocks of them. The samples do not depend on the seed.

    Parameters
    ----------
    X : the rows.
    memory : memory limit in bytes.

    Raises
    ------
    UserError
        The disk is too small for the copy.
    """

    def __init__(self, X: Blocks, memory: int) -> None:
        count, width = X.shape
        parts = -(-4 * count * width // min(max(memory // PARTS, 4 * width), PART))
        part = np.random.default_rng(0).permutation(count) % parts
        self.shape = X.shape
        self._rows = np.split(np.argsort(part, kind="stable"), np.cumsum(np.bincount(part))[:-1])
        self._starts = np.cumsum([0, *map(len, self._rows)])
        self._file = _File(X.folder, X.shape)
        filled = self._starts.copy()
        for places, block in X:
            own = part[places]
            found, sizes = np.unique(own, return_counts=True)
            for number, rows in zip(
                found, np.split(np.argsort(own, kind="stable"), np.cumsum(sizes)[:-1]), strict=True
            ):
                self._file.write(int(filled[number]), block[rows])
                filled[number] += len(rows)

    def __len__(self) -> int:
        return self.shape[0]

    def in_order(
        self, order: NDArray[np.int64], most: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Yield each row once: row numbers (m,) and rows (m, d), at most ``most`` at a time.

        Parameters
        ----------
        order : a permutation of all rows. Parts are ordered by their first row in it; rows within a part
            keep its order.
        most : largest number of rows per step.
        """
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        first = [rank[rows].min() for rows in self._rows]

        def read(number: int) -> tuple[int, NDArray[np.float32]]:
            return number, self._file.read(int(self._starts[number]), int(self._starts[number + 1]))

        with ThreadPoolExecutor(1) as reader:
            for number, values in read_ahead(reader, read, np.argsort(first).tolist()):
                rows = self._rows[number]
                places = np.argsort(rank[rows])
                for start in range(0, len(rows), most):
                    some = places[start : start + most]
                    yield rows[some], values[some]


class _File:
    """A temporary file of rows, written and read by row number."""

    def __init__(self, folder: Path, shape: tuple[int, int]) -> None:
        self._folder, (count, self._width) = folder, shape
        needed = 4 * count * self._width
        try:
            free = shutil.disk_usage(folder).free
            if needed > free:
                raise UserError(
                    f"not enough disk space in {folder} for a copy of {count:,} rows: {gigabytes(needed)} "
                    f"needed, {gigabytes(free)} free; free some, or give a larger memory=, which needs none"
                )
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        except OSError as error:
            raise self._unwritable(error) from None
        weakref.finalize(self, self._file.close)

    def write(self, start: int, rows: NDArray[np.float32]) -> None:
        left = np.ascontiguousarray(rows).data.cast("B") if rows.size else memoryview(b"")
        at = 4 * self._width * start
        try:
            while left:
                written = os.pwrite(self._file.fileno(), left, at)
                left, at = left[written:], at + written
        except OSError as error:
            raise self._unwritable(error) from None

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        rows = np.empty((stop - start, self._width), np.float32)
        left, at = rows.data.cast("B"), 4 * self._width * start
        while left:
            got = os.preadv(self._file.fileno(), [left], at)
            left, at = left[got:], at + got
        return rows

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            f"cannot write a temporary file in {self._folder}: {error.strerror}; make room there, or "
            "give a larger memory=, which needs no file"
        )
