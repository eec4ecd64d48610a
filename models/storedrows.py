"""Rows of a cache that no memory holds, read in blocks."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.budget import gigabytes
from features.cache.embeddings import Embeddings
from features.errors import UserError
from models.heads.blocks import BYTES, Blocks, rows_of_a_block

SHARE = 1 / 16  # of the memory that a block may take
LIVE = 4  # blocks that are in memory at once: read ahead, in use, and copies of these


class StoredRows(Blocks):
    """Rows of one split of a cache, or some of them, in the order in which they are stored.

    Parameters
    ----------
    embeddings, split, layers : whose rows and columns they are.
    memory : bytes that rows and a fit may take together.
    rows : (n,) the stored rows, ascending; None: all of the split.
    kept : the sample of these rows, where it is at hand.

    Raises
    ------
    UserError
        The file is damaged, or holds what is no number.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        split: str,
        layers: Sequence[str],
        memory: int,
        rows: NDArray[np.int64] | None = None,
        kept: Blocks | None = None,
    ) -> None:
        self.embeddings, self.split, self.layers = embeddings, split, tuple(layers)
        self.rows, self._kept = rows, kept
        width = sum(embeddings.width(layer) for layer in layers)
        self.shape = (embeddings.rows[split] if rows is None else len(rows), width)
        self._step, self.memory = divided(memory, width)

    def __iter__(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        self.passes += 1
        for start, block in self.embeddings.blocks(self.split, self.layers, self._step):
            check_finite(block, self.embeddings)
            if self.rows is None:
                yield slice(start, start + len(block)), block
            else:
                first, last = np.searchsorted(self.rows, (start, start + len(block)))
                if first < last:
                    yield slice(first, last), block[self.rows[first:last] - start]

    def sample(self) -> Blocks | NDArray[np.float32]:
        """The evenly spaced rows."""
        return super().sample() if self._kept is None else self._kept


class Spool(Blocks):
    """Rows in a temporary file without a name, which goes with the process.

    Parameters
    ----------
    folder : where there is room for them.
    shape : (n, d) of the rows, which :meth:`add` brings in order.
    memory : bytes that rows and a fit may take together.
    """

    def __init__(self, folder: Path, shape: tuple[int, int], memory: int) -> None:
        self.shape = shape
        self._step, self.memory = divided(memory, shape[1])
        needed, free = 4 * shape[0] * shape[1], shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(
                f"not enough disk in {folder} for a copy of {shape[0]:,} rows: {gigabytes(needed)} needed, "
                f"{gigabytes(free)} free; free some, or a larger memory= needs none"
            )
        try:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed with the object
        except OSError as error:
            raise self._unwritable(folder, error) from None
        self._folder = folder
        weakref.finalize(self, self._file.close)

    def add(self, rows: NDArray[np.float32]) -> None:
        """The next rows (m, d)."""
        try:
            self._file.write(np.ascontiguousarray(rows).data)
        except OSError as error:
            raise self._unwritable(self._folder, error) from None

    def __iter__(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        self.passes += 1
        count, width = self.shape
        self._file.flush()
        for start in range(0, count, self._step):
            block = np.empty((min(self._step, count - start), width), np.float32)
            self._file.seek(4 * width * start)
            self._file.readinto(block.data.cast("B"))
            yield slice(start, start + len(block)), block

    def _unwritable(self, folder: Path, error: OSError) -> UserError:
        return UserError(
            f"cannot write a temporary file in {folder}: {error.strerror}; make room there, or a larger "
            "memory= needs none"
        )


def divided(memory: int, width: int) -> tuple[int, int]:
    """The rows of a block where so much memory is given, and the bytes that are left beside blocks."""
    step = rows_of_a_block(width, min(BYTES, int(SHARE * memory)))
    return step, max(memory - LIVE * 4 * width * step, 0)


def check_finite(X: NDArray[np.float32], embeddings: Embeddings) -> None:
    """Refuse embeddings that are no numbers; nothing is copied."""
    if not np.isfinite([X.min(), X.max()]).all():  # a NaN is both
        raise UserError(f"{embeddings.path} holds NaN or infinite numbers; verify the cache")
