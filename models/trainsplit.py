"""The train split, divided into rows to fit and validation rows, in memory or out of core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from features.budget import gigabytes, memory_of
from features.cache.embeddings import Embeddings
from features.datasets.splits import stratified
from features.progress import say
from models.heads.blocks import Blocks, Held, Rows, evenly
from models.heads.spool import Spool
from models.storedrows import StoredRows, check_finite

VALIDATION = 0.1  # share of the train split for validation, as in DINOv2's linear evaluation


class TrainSplit:
    """The train split of some layers, in memory or, if it does not fit, read in blocks.

    Parameters
    ----------
    embeddings : the cache.
    layers : the layers, in the order of their columns.
    memory : memory limit in bytes or as in ``4GB``; None: the free memory less a tenth.

    Attributes
    ----------
    memory, bytes : the memory limit, and the size of the train split, in bytes.
    floors : validation accuracy of the trivial baselines (``prior``, ``centroid``), once they are fitted.
    X, y : (n, d) float32 and (n,) class numbers of the complete train split; ``X`` is an array, or
        :class:`~models.heads.blocks.Blocks` if it exceeds ``memory``.
    X_fit, y_fit, X_val, y_val : rows to fit and validation rows. In memory they are views of ``X``, whose
        last rows are the validation rows; out of core, the validation rows and a sample of the others are
        copied to temporary files beside the cache.
    order, fit_rows, val_rows : the stored row of each row of ``X``, ``X_fit`` and ``X_val``.

    Raises
    ------
    UserError
        The cache is damaged or contains NaN or infinity, or the disk is full.

    Examples
    --------
    >>> from features import VGG16, extract, open_dataset
    >>> from models import TrainSplit
    >>> embeddings = extract(open_dataset("digits"), VGG16(layers="block5"), "out/embeddings")
    >>> split = TrainSplit(embeddings, ["block5"])
    >>> split.X_fit.shape, split.X_val.shape
    ((1298, 512), (144, 512))
    """

    X: Rows
    X_fit: Rows

    def __init__(
        self, embeddings: Embeddings, layers: Sequence[str], memory: int | str | None = None
    ) -> None:
        self.embeddings, self.layers = embeddings, tuple(layers)
        self.memory = memory_of(memory)
        labels = embeddings.labels()
        self.val_rows = validation_rows(labels, embeddings.dataset["digest"])
        self.fit_rows = np.setdiff1d(np.arange(len(labels)), self.val_rows)
        width = sum(embeddings.width(layer) for layer in layers if layer in embeddings.layers)
        self.bytes = 4 * len(labels) * width
        self.floors: dict[str, float] = {}
        if self.bytes > self.memory:
            self._read_in_blocks(labels)
        else:
            self._read_whole(labels)

    def _read_whole(self, labels: NDArray[np.int64]) -> None:
        fit = len(self.fit_rows)
        self.order = np.concatenate((self.fit_rows, self.val_rows))
        X = self.embeddings.matrix("train", self.layers, self.order)
        check_finite(X, self.embeddings)
        self.X, self.X_fit, self.X_val = X, X[:fit], X[fit:]
        self.y = labels[self.order]
        self.y_fit, self.y_val = self.y[:fit], self.y[fit:]

    def _read_in_blocks(self, labels: NDArray[np.int64]) -> None:
        say(
            f"{len(labels):,} training images are {gigabytes(self.bytes)}, more than the memory limit of "
            f"{gigabytes(self.memory)} (memory=): they are read in blocks"
        )
        self.X = self._stored(None, lambda: self._kept[2])
        self.X_fit = self._stored(self.fit_rows, lambda: self._kept[1])
        self.order, self.y = np.arange(len(labels)), labels
        self.y_fit, self.y_val = labels[self.fit_rows], labels[self.val_rows]

    @cached_property
    def X_val(self) -> Rows:
        """The validation rows."""
        return self._kept[0]

    @cached_property
    def _kept(self) -> list[Spool]:
        """Copies of rows that are read often: validation rows, and the samples of ``X_fit`` and ``X``.

        They are written in one pass.
        """
        count, width = self.X.shape
        wanted = [self.val_rows, self.fit_rows[evenly(len(self.fit_rows))], evenly(count)]
        spools = [Spool(self.embeddings.path.parent, (len(rows), width), self.memory) for rows in wanted]
        for places, block in self._stored(None):
            for rows, spool in zip(wanted, spools, strict=True):
                first, last = np.searchsorted(rows, (places.start, places.stop))
                spool.add(block[rows[first:last] - places.start])
        return spools

    def _stored(self, rows: NDArray[np.int64] | None, kept: Callable[[], Blocks] | None = None) -> StoredRows:
        return StoredRows(self.embeddings, "train", self.layers, self.memory, rows, kept)

    def chosen(self, rows: NDArray[np.int64], beside: int = 0) -> Rows:
        """Some rows of ``X_fit``, by ascending number.

        Of a split that is read in blocks they are blocks too: held in memory if that leaves ``beside`` bytes
        for a fit, and as much as they take themselves; otherwise read from the cache.
        """
        if not isinstance(self.X_fit, Blocks):
            return self.X_fit[rows]
        stored = self._stored(self.fit_rows[rows])
        if 2 * 4 * len(rows) * stored.shape[1] > stored.memory - beside:
            return stored
        X = self.embeddings.take("train", self.layers, self.fit_rows[rows])
        check_finite(X, self.embeddings)
        return Held(X, stored)

    @property
    def passes(self) -> int:
        """Number of passes over the rows on disk so far."""
        return sum(rows.passes for rows in (self.X, self.X_fit) if isinstance(rows, Blocks))

    def test(self) -> Rows:
        """The vectors of the test split (n, d), in memory or in blocks like the train split."""
        if isinstance(self.X, Blocks):
            return StoredRows(self.embeddings, "test", self.layers, self.memory)
        X = self.embeddings.matrix("test", self.layers)
        check_finite(X, self.embeddings)
        return X


def validation_rows(labels: NDArray[np.int64], dataset_digest: str) -> NDArray[np.int64]:
    """The validation rows of the train split, ``(m,)`` ascending: a stratified tenth.

    They depend on the dataset alone, not on seed or embedding, so that every head at every resolution is
    validated on the same images.
    """
    count = max(round(len(labels) * VALIDATION), len(np.unique(labels)))
    return stratified(labels, count, f"validation {dataset_digest}")
