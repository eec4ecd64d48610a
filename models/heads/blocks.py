"""Rows that are read in blocks: of an array in memory, or of embeddings that no memory holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import validate_data

ROWS = 4_096  # of a block, at most
BYTES = 64 << 20  # of a block, at most
SHARE = 1 / 16  # of the memory that a block may take
LIVE = 4  # blocks that are in memory at once: read ahead, in use, and copies of these
SAMPLE = 5_000  # rows that stand for all where a number is only measured


class Blocks(ABC):
    """Rows (n, d) float32 that lie on a disk and are read in blocks, as often as a fit needs.

    Heads that can be fitted so take it where they take an array.

    Attributes
    ----------
    shape : (n, d).
    step : rows of a block, at most.
    memory : bytes that a fit may take beside the blocks.
    folder : where there is room for temporary files.
    source : what names the rows where they stay on the disk.
    passes : how often all rows have been read.
    standard : mean and scale of the columns once they are known, so that one pass serves many fits.
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
        """Every block once, in order: the places of its rows, and the rows themselves (m, d)."""

    def sample(self) -> Rows:
        """The :func:`evenly` spaced rows."""
        return taken(self, SAMPLE)


Rows = NDArray[np.float32] | Blocks  # (n, d)


def in_blocks(X: Rows, most: int = ROWS) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Every block of at most so many rows, with their places; those of an array are views."""
    step = min(rows_of_a_block(X.shape[1]), most)
    for places, rows in X if isinstance(X, Blocks) else [(slice(0, len(X)), X)]:
        for start in range(0, len(rows), step):
            block = rows[start : start + step]
            yield slice(places.start + start, places.start + start + len(block)), block


def rows_of_a_block(width: int, most: int = BYTES) -> int:
    """How many rows of so many numbers a block has that takes at most so many bytes."""
    return min(max(most // (4 * width), 1), ROWS)


def divided(memory: int, width: int) -> tuple[int, int]:
    """The rows of a block where so much memory is given, and the bytes that are left beside blocks."""
    step = rows_of_a_block(width, min(BYTES, int(SHARE * memory)))
    return step, max(memory - LIVE * 4 * width * step, 0)


def evenly(rows: int) -> NDArray[np.int64]:
    """At most ``SAMPLE`` of so many rows, evenly spaced, ascending."""
    return np.linspace(0, rows - 1, min(SAMPLE, rows)).astype(np.int64)


def sample(X: Rows) -> Rows:
    """The :func:`evenly` spaced rows."""
    return X.sample() if isinstance(X, Blocks) else X[evenly(len(X))]


def taken(X: Rows, most: int) -> NDArray[np.float32]:
    """At most so many of the rows, evenly spaced, in memory."""
    rows = np.linspace(0, len(X) - 1, min(most, len(X))).astype(np.int64)
    parts = [
        block[rows[slice(*np.searchsorted(rows, (places.start, places.stop)))] - places.start]
        for places, block in in_blocks(X)
    ]
    return np.concatenate(parts)


def validated(estimator: Any, X: Any, y: Any = None) -> tuple[Rows, NDArray[Any]]:
    """Inputs and labels as scikit-learn's ``validate_data`` has them; blocks were looked at before."""
    if isinstance(X, Blocks):
        estimator.n_features_in_ = X.shape[1]
        return X, np.asarray(y)
    X, y = validate_data(estimator, X, y, dtype=np.float32, order="C")
    return X, y
