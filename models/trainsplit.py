"""The train split: rows that fit, rows that choose, in memory or in blocks."""

from __future__ import annotations

from collections.abc import Sequence

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
    X_val: Rows

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
        whole = StoredRows(self.embeddings, "train", self.layers, self.memory)
        kept = [  # one pass proves and looks at all rows, and copies those that are needed again and again
            (rows, Spool(self.embeddings.path.parent, (len(rows), whole.shape[1]), self.memory))
            for rows in (self.val_rows, self.fit_rows[evenly(len(self.fit_rows))], evenly(len(labels)))
        ]
        for places, block in whole:
            for rows, spool in kept:
                first, last = np.searchsorted(rows, (places.start, places.stop))
                spool.add(block[rows[first:last] - places.start])
        (_, self.X_val), (_, of_fit), (_, of_all) = kept
        self.X = StoredRows(self.embeddings, "train", self.layers, self.memory, kept=of_all)
        self.X_fit = StoredRows(
            self.embeddings, "train", self.layers, self.memory, self.fit_rows, kept=of_fit
        )
        self.order, self.y = np.arange(len(labels)), labels
        self.y_fit, self.y_val = labels[self.fit_rows], labels[self.val_rows]

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
