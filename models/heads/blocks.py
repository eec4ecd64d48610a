"""Rows read in blocks, for fitting out of core."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import validate_data

ROWS = 4_096  # per block, at most
BYTES = 64 << 20  # per block, at most
SHARE = 1 / 16  # of the memory limit that a block may take
LIVE = 4  # blocks in memory at a time: read ahead, in use, and copies of these
SAMPLE = 5_000  # rows on which quantities are estimated


class Blocks(ABC):
    """Rows (n, d) float32 on disk, read in blocks as often as needed.

    Heads that can be fitted out of core accept it instead of an array.

    Attributes
    ----------
    shape : (n, d).
    step : largest number of rows per block.
    memory : bytes available to a fit beside the blocks.
    folder : for temporary files.
    source : identifies the rows for heads that do not copy them.
    passes : number of passes over all rows so far.
    standard : mean and scale of the columns, (d,) float64 each, once they are known.
    """

    shape: tuple[int, int]
    step: int
    memory: int
    folder: Path
    source: dict[str, str]
    passes: int = 0
    standard: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield every block once, in order: the slice of its row numbers, and the rows (m, d)."""

    def sample(self) -> Rows:
        """The :func:`evenly` spaced rows."""
        return taken(self, SAMPLE)


class Held(Blocks):
    """Rows in memory, of which a fit takes blocks, so that it keeps to the memory that they leave.

    Parameters
    ----------
    rows : (n, d) float32.
    stored : rows on a disk that these are some of; their ``memory`` is shared with these.
    """

    def __init__(self, rows: NDArray[np.float32], stored: Blocks) -> None:
        self.shape, self.step, self._rows = (len(rows), rows.shape[1]), stored.step, rows
        self.memory = max(stored.memory - rows.nbytes, 0)
        self.folder, self.source = stored.folder, stored.source

    def __iter__(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        self.passes += 1
        for start in range(0, len(self), self.step):
            block = self._rows[start : start + self.step]
            yield slice(start, start + len(block)), block


Rows = NDArray[np.float32] | Blocks  # (n, d)


def in_blocks(X: Rows, most: int = ROWS) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield blocks of at most ``most`` rows: the slice of their numbers, and the rows (m, d).

    Blocks of an array are views.
    """
    step = min(rows_of_a_block(X.shape[1]), most)
    for places, rows in X if isinstance(X, Blocks) else [(slice(0, len(X)), X)]:
        for start in range(0, len(rows), step):
            block = rows[start : start + step]
            yield slice(places.start + start, places.start + start + len(block)), block


def of_one_size(X: Blocks, size: int) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Blocks of exactly so many rows, with the places of those that are there: rows of 0 follow the last."""
    left, at = np.empty((0, X.shape[1]), np.float32), 0
    for _, block in X:
        block = np.concatenate((left, block)) if len(left) else block
        whole = len(block) - len(block) % size
        for start in range(0, whole, size):
            yield slice(at, at + size), block[start : start + size]
            at += size
        left = block[whole:].copy()
    if len(left):
        yield (
            slice(at, at + len(left)),
            np.concatenate((left, np.zeros((size - len(left), X.shape[1]), np.float32))),
        )


def rows_of_a_block(width: int, most: int = BYTES) -> int:
    """The number of rows of ``width`` float32 values in a block of at most ``most`` bytes."""
    return min(max(most // (4 * width), 1), ROWS)


def divided(memory: int, width: int) -> tuple[int, int]:
    """The rows per block for a memory limit in bytes, and the bytes left beside the blocks."""
    step = rows_of_a_block(width, min(BYTES, int(SHARE * memory)))
    return step, max(memory - LIVE * 4 * width * step, 0)


def evenly(rows: int) -> NDArray[np.int64]:
    """At most ``SAMPLE`` evenly spaced row numbers out of ``rows``, ascending."""
    return np.linspace(0, rows - 1, min(SAMPLE, rows)).astype(np.int64)


def sample(X: Rows) -> Rows:
    """The :func:`evenly` spaced rows."""
    return X.sample() if isinstance(X, Blocks) else X[evenly(len(X))]


def taken(X: Rows, most: int) -> NDArray[np.float32]:
    """At most ``most`` evenly spaced rows, in memory."""
    rows = np.linspace(0, len(X) - 1, min(most, len(X))).astype(np.int64)
    parts = [
        block[rows[slice(*np.searchsorted(rows, (places.start, places.stop)))] - places.start]
        for places, block in in_blocks(X)
    ]
    return np.concatenate(parts)


def validated(estimator: Any, X: Any, y: Any = None) -> tuple[Rows, NDArray[Any]]:
    """Validate inputs and labels with scikit-learn's ``validate_data``; blocks are validated when read."""
    if isinstance(X, Blocks):
        estimator.n_features_in_ = X.shape[1]
        return X, np.asarray(y)
    X, y = validate_data(estimator, X, y, dtype=np.float32, order="C")
    return X, y
