"""Nearest neighbours by cosine similarity."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from models.heads.base import BaseHead, Candidate, OnEpoch, Watched
from models.heads.blocks import Blocks, Rows, in_blocks, sample, validated
from models.heads.parameters import check, positive, whole
from models.heads.refusal import Refused

QUERIES = 256  # rows compared with all training rows at a time
SMALLEST = 1e-150  # weight of an exported vote at distance 1; its square is representable in float64
GROUP = 16  # columns per group in the search


class KnnHead(BaseHead, ClassifierMixin, BaseEstimator):
    """Weighted nearest neighbours: each of the ``k`` nearest has the weight ``exp(cosine / temperature)``.

    The weighting is that of Z. Wu et al., Unsupervised feature learning via non-parametric instance
    discrimination, 2018, section 3.4. One more vote, with the weight of the least similar neighbour, is
    divided among all classes by their frequency, so that no probability is 0.

    Parameters
    ----------
    k : number of neighbours; all training images, if there are fewer.
    temperature : smaller values give more weight to the most similar images.

    Attributes
    ----------
    classes_ : (k,) class labels.
    rows_, codes_ : the training rows (n, d) float32 and their class numbers (n,).
    inverse_norms_ : (n,) float32.
    source_ : instead of ``rows_`` and ``inverse_norms_``, for rows in blocks: identifies the cache with the
        rows. A loaded head is given the rows by :meth:`attach`.
    """

    remembers = True

    def __init__(self, k: int = 20, temperature: float = 0.05) -> None:
        self.k = k
        self.temperature = temperature

    def fit(self, X: Rows, y: NDArray[Any]) -> KnnHead:
        """Store ``X`` (n, d), without a copy, and ``y`` (n,); for rows in blocks, only a reference.

        Raises
        ------
        ValueError
            NaN or infinite inputs, one class only, shapes that do not match, or a parameter out of
            its range.
        """
        self.check()
        X, y = validated(self, X, y)
        self.codes_ = self._encoded(y)
        for name in ("rows_", "inverse_norms_", "source_", "_blocks"):  # of an earlier fit
            if hasattr(self, name):
                delattr(self, name)
        if isinstance(X, Blocks):
            self.source_ = X.source
            self.attach(X)
        else:
            self.rows_, self.inverse_norms_ = X, _inverse_norms(X)
        return self

    def attach(self, X: Blocks) -> None:
        """Give the training rows to a head that has only a reference to them."""
        if len(X) != len(self.codes_):
            raise Refused(f"it was fitted on {len(self.codes_):,} images, its cache has {len(X):,}")
        self._blocks = X

    def memory_in_blocks(self, rows: int, width: int, classes: int) -> tuple[int, str]:
        """Bytes of one query and of the class numbers of all rows."""
        return 4 * width + 8 * rows, f"4 x {width:,} values + 8 x {rows:,} images"

    def check(self) -> None:
        """Raise ``ValueError`` for the first invalid parameter."""
        check(self, k=whole(1), temperature=positive())

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Class probabilities, ``(n, k)`` float64; columns follow ``classes_``."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, order="C", reset=False)
        return self._votes(*self.neighbours(X, self.k))

    def predict_proba_of_own(self, X: Rows, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Class probabilities (m, k) of training rows, leave-one-out.

        ``X`` is not used, as the head stores its rows.
        """
        check_is_fitted(self)
        own_rows = self.rows_[rows] if hasattr(self, "rows_") else sample(self._stored())
        similarities, neighbours = self.neighbours(own_rows, self.k + 1)
        own = neighbours == np.asarray(rows)[:, None]
        own[~own.any(axis=1), -1] = True  # duplicates precede it
        kept = (len(rows), neighbours.shape[1] - 1)
        return self._votes(similarities[~own].reshape(kept), neighbours[~own].reshape(kept))

    def sweep(
        self,
        X: Rows,
        y: NDArray[Any],
        watched: Watched,
        grid: Mapping[str, Sequence[Any]],
        on_epoch: OnEpoch | None = None,
    ) -> Iterator[Candidate]:
        """As :meth:`BaseHead.sweep`, with one search for all combinations."""
        self.fit(X, y)
        similarities, neighbours = self.neighbours(watched[0], max(map(int, grid["k"])))
        for k, temperature in product(grid["k"], grid["temperature"]):
            chosen = {"k": int(k), "temperature": temperature}
            self.set_params(**chosen).check()
            yield chosen, self._votes(similarities[:, : int(k)], neighbours[:, : int(k)])

    def proba_of(self, X: Rows) -> NDArray[np.float64]:
        """Probabilities (n, k) for rows in memory or in blocks, with few passes over stored rows."""
        return self._votes(*self.neighbours(X, self.k)) if isinstance(X, Blocks) else self.predict_proba(X)

    def neighbours(
        self, X: Rows, k: int, advance: Callable[[int], object] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the ``k`` most similar training rows of each query, most similar first.

        The search is exact: the k largest similarities are in the k groups of columns with the largest
        maxima, so only these groups are sorted.

        Parameters
        ----------
        X : (n, d) queries.
        k : number of neighbours.
        advance : called with the number of queries done since the last call.

        Returns
        -------
        tuple
            Cosine similarities (n, k) float32, and row numbers (n, k) int64.
        """
        from scipy.linalg.blas import sgemm

        check_is_fitted(self)
        if isinstance(X, Blocks) or not hasattr(self, "rows_"):
            parts = [self._neighbours_in_blocks(part, k) for part in self._queries(X)]
            return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
        k = min(k, len(self.rows_))
        width = -(-len(self.rows_) // GROUP) * GROUP
        similarities = np.empty((len(X), k), dtype=np.float32)
        neighbours = np.empty((len(X), k), dtype=np.int64)
        scale = _inverse_norms(X)

        def search(start: int) -> int:
            queries = X[start : start + QUERIES] * scale[start : start + QUERIES, None]
            part = np.empty((len(queries), width), dtype=np.float32)
            part[:, len(self.rows_) :] = -np.inf
            product_ = sgemm(1, self.rows_.T, queries.T, trans_a=True)  # (n, queries), by column
            np.multiply(product_.T, self.inverse_norms_, out=part[:, : len(self.rows_)])
            tops = part.reshape(len(part), -1, GROUP).max(axis=2)
            if k < tops.shape[1]:
                picked = np.argpartition(tops, tops.shape[1] - k, axis=1)[:, -k:]
            else:
                picked = np.broadcast_to(np.arange(tops.shape[1]), tops.shape)
            columns = (picked[:, :, None] * GROUP + np.arange(GROUP)).reshape(len(part), -1)
            values = np.take_along_axis(part, columns, axis=1)
            best = np.argpartition(values, values.shape[1] - k, axis=1)[:, -k:]
            kept, names = np.take_along_axis(values, best, axis=1), np.take_along_axis(columns, best, axis=1)
            order = np.lexsort((names, -kept), axis=1)
            similarities[start : start + QUERIES] = np.take_along_axis(kept, order, axis=1)
            neighbours[start : start + QUERIES] = np.take_along_axis(names, order, axis=1)
            return len(queries)

        with ThreadPoolExecutor(2) as pool:  # sort one block while the next is multiplied
            for done in pool.map(search, range(0, len(X), QUERIES)):
                if advance is not None:
                    advance(done)
        return similarities, neighbours

    def _neighbours_in_blocks(
        self, X: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """:meth:`neighbours` in one pass over the stored rows, which updates the k best of each query."""
        from scipy.linalg.blas import sgemm

        k = min(k, len(self.codes_))
        queries = X * _inverse_norms(X)[:, None]
        best = np.full((len(X), k), -np.inf, np.float32)
        names = np.full((len(X), k), np.iinfo(np.int64).max)
        for places, block in in_blocks(self._stored()):
            found = sgemm(1, block.T, queries.T, trans_a=True).T * _inverse_norms(block)  # (queries, rows)
            most = min(k, found.shape[1])
            picked = np.argpartition(found, found.shape[1] - most, axis=1)[:, -most:]
            values = np.concatenate((best, np.take_along_axis(found, picked, axis=1)), axis=1)
            named = np.concatenate((names, picked + places.start), axis=1)
            order = np.lexsort((named, -values), axis=1)[:, :k]
            best, names = np.take_along_axis(values, order, axis=1), np.take_along_axis(named, order, axis=1)
        return best, names

    def _queries(self, X: Rows) -> Iterator[NDArray[np.float32]]:
        """Yield queries in parts that, with their products with a block, take a third of the memory."""
        stored = self._stored()
        most = max(stored.memory // (3 * 4 * (2 * X.shape[1] + 4 * stored.step)), 1)
        if not isinstance(X, Blocks):
            yield from (X[start : start + most] for start in range(0, len(X), most))
            return
        waiting: list[NDArray[np.float32]] = []
        for _, block in in_blocks(X, most):
            if sum(map(len, waiting)) + len(block) > most:
                yield np.concatenate(waiting)
                waiting = []
            waiting.append(block)
        yield np.concatenate(waiting)

    def _stored(self) -> Blocks:
        """The training rows in a cache."""
        if not hasattr(self, "_blocks"):
            raise Refused("its training images stay in their cache, which this head was not given")
        return self._blocks

    def plain(self, temperature: float = 1.0) -> Any:
        """A fitted ``KNeighborsClassifier`` with the shares of the k votes, not calibrated.

        It lacks the additional vote that this head divides among all classes, so predictions near a tie may
        differ.
        """
        from sklearn.neighbors import KNeighborsClassifier

        check_is_fitted(self)
        if not hasattr(self, "rows_"):
            raise Refused("its training images stay in their cache, to which a plain object cannot refer")
        # exp(-distance / T) as a power, so that the pickle needs only NumPy; in float64, since float32
        # underflows at 1e-45; and positive at the largest distance, 2, as scikit-learn requires.
        weights = partial(np.power, np.maximum(np.exp(-1 / np.float64(self.temperature)), SMALLEST))
        k = min(self.k, len(self.rows_))
        plain = KNeighborsClassifier(n_neighbors=k, weights=weights, metric="cosine")
        return plain.fit(self.rows_, self.classes_[self.codes_])

    def _votes(self, similarities: NDArray[np.float32], neighbours: NDArray[np.int64]) -> NDArray[np.float64]:
        weights = np.exp((similarities - similarities[:, :1]).astype(np.float64) / self.temperature)
        share = np.bincount(self.codes_) / len(self.codes_)
        votes = weights[:, -1:] * share
        voters = self.codes_[neighbours]
        for code in range(len(self.classes_)):
            votes[:, code] += np.where(voters == code, weights, 0).sum(axis=1)
        return np.asarray(votes / votes.sum(axis=1, keepdims=True))


def _inverse_norms(X: NDArray[np.float32]) -> NDArray[np.float32]:
    """The inverse length of each row; 0 for rows of zeros, whose similarities are then 0."""
    norms = np.sqrt(np.einsum("nd,nd->n", X, X))
    return np.asarray(np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0))
