"""The train split: rows that fit, rows that choose, in memory or in blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from features.budget import gigabytes, memory_of
from features.cache.embeddings import Embeddings
from features.datasets.splits import stratified
from features.progress import say
from models.heads.blocks import Blocks, Rows, evenly
from models.heads.spool import Spool
from models.storedrows import StoredRows, check_finite

VALIDATION = 0.1  # share of the train split that chooses; DINOv2's linear evaluation holds out as much


class TrainSplit:
    """The train split of some layers: once in memory, or, where it does not fit, read in blocks.

    Parameters
    ----------
    embeddings, layers : where it comes from.
    memory : what it may take, in bytes or as in ``4GB``; None: what is free, less a tenth.

    Attributes
    ----------
    memory, bytes : what it may take, and what it takes in memory, in bytes.
    floors : validation accuracy of the heads that any other should beat, once they are fitted.
    X, y : (n, d) float32 and (n,) class numbers, all of train; an array, or
        :class:`~models.heads.blocks.Blocks` where rows x columns x 4 bytes are more than ``memory``.
    X_fit, y_fit, X_val, y_val : the rows to fit and the validation rows; of an array views, the validation
        rows being its last. In blocks, the validation rows and samples of the others are copied to
        temporary files beside the cache.
    order, fit_rows, val_rows : the stored row that each row of ``X``, ``X_fit`` and ``X_val`` is.

    Raises
    ------
    UserError
        The file is damaged, or holds what is no number; or there is no room for the temporary file.

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
            f"{len(labels):,} training images are {gigabytes(self.bytes)}, and {gigabytes(self.memory)} of "
            "memory may be taken (memory=): they are read in blocks"
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
        """Of rows in blocks: those that are needed again and again, copied in one pass.

        The validation rows, and the samples of ``X_fit`` and of ``X``.
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

    def chosen(self, rows: NDArray[np.int64]) -> Rows:
        """Some rows of ``X_fit``, ascending, by number: in memory where half of it holds them."""
        X, stored = self.X_fit, self.fit_rows[rows]
        if not isinstance(X, Blocks):
            return X[rows]
        if 4 * len(rows) * X.shape[1] <= X.memory // 2:
            return self.embeddings.take("train", self.layers, stored)
        return StoredRows(self.embeddings, "train", self.layers, self.memory, stored)

    @property
    def passes(self) -> int:
        """How often rows to fit were read from the disk since the split was made."""
        return sum(rows.passes for rows in (self.X, self.X_fit) if isinstance(rows, Blocks))

    def test(self) -> Rows:
        """The test split, as the train split is read."""
        if isinstance(self.X, Blocks):
            return StoredRows(self.embeddings, "test", self.layers, self.memory)
        X = self.embeddings.matrix("test", self.layers)
        check_finite(X, self.embeddings)
        return X


def validation_rows(labels: NDArray[np.int64], dataset_digest: str) -> NDArray[np.int64]:
    """The rows of the train split that choose, ``(m,)`` ascending: a tenth, stratified.

    They depend on the dataset and a constant, not on a seed or an embedding, so that every head
    at every resolution is validated on the same images.
    """
    count = max(round(len(labels) * VALIDATION), len(np.unique(labels)))
    return stratified(labels, count, f"validation {dataset_digest}")
