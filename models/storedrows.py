"""Rows of a cache, read in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.budget import memory_of
from features.cache.catalogue import with_fingerprint
from features.cache.embeddings import Embeddings
from features.errors import UserError
from models.heads.blocks import Blocks, divided


class StoredRows(Blocks):
    """All or some rows of one split of a cache, in stored order.

    Parameters
    ----------
    embeddings, split, layers : the cache, split and layers.
    memory : memory limit in bytes, for blocks and fit together.
    rows : (n,) numbers of stored rows, ascending; None: all.
    kept : returns a stored copy of the sample of these rows; None: the sample is read from the cache.

    Raises
    ------
    UserError
        When iterated: the cache is damaged, or contains NaN or infinity.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        split: str,
        layers: Sequence[str],
        memory: int,
        rows: NDArray[np.int64] | None = None,
        kept: Callable[[], Blocks] | None = None,
    ) -> None:
        self.embeddings, self.split, self.layers = embeddings, split, tuple(layers)
        self.rows, self._kept = rows, kept
        width = sum(embeddings.width(layer) for layer in layers)
        self.shape = (embeddings.rows[split] if rows is None else len(rows), width)
        self.step, self.memory = divided(memory, width)
        self.folder = embeddings.path.parent
        self.source = {"fingerprint": embeddings.fingerprint}

    def __iter__(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        self.passes += 1
        for start, block in self.embeddings.blocks(self.split, self.layers, self.step):
            check_finite(block, self.embeddings)
            if self.rows is None:
                yield slice(start, start + len(block)), block
            else:
                first, last = np.searchsorted(self.rows, (start, start + len(block)))
                if first < last:
                    yield slice(first, last), block[self.rows[first:last] - start]

    def sample(self) -> Blocks | NDArray[np.float32]:
        """The evenly spaced rows."""
        return super().sample() if self._kept is None else self._kept()


def rows_of_run(
    fingerprint: str, layers: Sequence[str], root: Path, memory: int | str | None = None
) -> StoredRows:
    """The training rows of a run whose head keeps them in a cache below ``root``.

    Parameters
    ----------
    memory : limit for them and predictions, in bytes or as in ``4GB``; None: the free memory less a tenth.

    Raises
    ------
    UserError
        There is no cache with this fingerprint.
    """
    embeddings = with_fingerprint(root, fingerprint)
    if embeddings is None:
        raise UserError(
            f"the head needs its training images, which stay in their cache, and {root} has none of the "
            f"fingerprint {fingerprint[:12]}; compute it again"
        )
    return StoredRows(embeddings, "train", layers, memory_of(memory))


def check_finite(X: NDArray[np.float32], embeddings: Embeddings) -> None:
    """Refuse embeddings with NaN or infinity, without a copy."""
    if not np.isfinite([X.min(), X.max()]).all():  # NaN propagates to both
        raise UserError(f"{embeddings.path} contains NaN or infinite numbers; verify the cache")
