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
from models.heads.blocks import LIVE, Blocks, Rows, in_blocks, of_one_size, sample, validated
from models.heads.parameters import check, positive, whole
from models.heads.refusal import Refused

QUERIES = 256  # rows compared with training rows at a time
TILE = 512  # training rows on a disk that they are compared with at a time
COPIES = 4  # of the similarities of QUERIES and TILE: as they are, and while the largest are found
HELD = 4  # copies of a row: two of whoever brings rows to predict, side by side, and of length 1
SMALLEST = 1e-150  # an exported vote at distance 1; its square is still a float64
GROUP = 16  # columns whose maximum stands for them in the search


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
        """Probabilities (n, k) of rows in memory or in blocks; as few passes over stored rows as fit."""
        if isinstance(X, Blocks) and not hasattr(self, "rows_"):
            return self._votes(*self.neighbours(X, self.k))
        return super().proba_of(X)

    def rows_per_pass(self) -> int | None:
        """Rows (of an array) that one pass over the stored rows predicts; None where rows are in memory."""
        return None if hasattr(self, "rows_") else self._at_once(self.k, copies=HELD)

    def neighbours(
        self, X: Rows, k: int, advance: Callable[[int], object] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the ``k`` most similar training rows of each query, most similar first.

        Of equally similar rows the first one comes first. The search is exact: the k largest similarities are
        in the k groups of columns with the largest maxima, so only these groups are sorted.

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
            parts = [self._neighbours_in_blocks(part, k, advance) for part in self._queries(X, k)]
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
            picked = _largest(part.reshape(len(part), -1, GROUP).max(axis=2), k)
            columns = (picked[:, :, None] * GROUP + np.arange(GROUP)).reshape(len(part), -1)
            values = np.take_along_axis(part, columns, axis=1)
            best = _largest(values, k)
            kept, names = np.take_along_axis(values, best, axis=1), np.take_along_axis(columns, best, axis=1)
            order = np.argsort(-kept, axis=1, kind="stable")
            similarities[start : start + QUERIES] = np.take_along_axis(kept, order, axis=1)
            neighbours[start : start + QUERIES] = np.take_along_axis(names, order, axis=1)
            return len(queries)

        with ThreadPoolExecutor(2) as pool:  # sort one block while the next is multiplied
            for done in pool.map(search, range(0, len(X), QUERIES)):
                if advance is not None:
                    advance(done)
        return similarities, neighbours

    def _neighbours_in_blocks(
        self, queries: NDArray[np.float32], k: int, advance: Callable[[int], object] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """:meth:`neighbours` of rows of length 1 in one pass over the stored rows, the k best running along.

        The last digits of a product depend on its shape. So all products have the same one, and each is made
        by one thread: neighbours are the same bit for bit in any memory that holds 2 x ``LIVE`` x ``TILE``
        rows (in less, products are of fewer). Copies of a row may still differ in the last digit.
        """
        from joblib import cpu_count
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        stored, k = self._stored(), min(k, len(self.codes_))
        best = np.full((len(queries), k), -np.inf, np.float32)
        names = np.zeros((len(queries), k), np.int64)
        tile, done = _tile(stored), 0
        threads = min(cpu_count(), max(stored.memory // (LIVE * COPIES * 4 * QUERIES * tile), 1))

        def search(start: int) -> None:
            part = slice(start, start + QUERIES)
            found = np.matmul(queries[part], rows.T)[:, : places.stop - places.start]  # without the GIL
            found *= scale
            better = np.flatnonzero(found.max(axis=1) > best[part, -1])
            found = found[better]
            picked = _largest(found, min(k, found.shape[1]))
            values = np.hstack((best[part][better], np.take_along_axis(found, picked, axis=1)))
            named = np.hstack((names[part][better], picked + places.start))
            order = np.argsort(-values, axis=1, kind="stable")[:, :k]
            best[part][better] = np.take_along_axis(values, order, axis=1)
            names[part][better] = np.take_along_axis(named, order, axis=1)

        with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
            for places, rows in of_one_size(stored, tile):
                scale = _inverse_norms(rows)[: places.stop - places.start]
                list(pool.map(search, range(0, len(queries), QUERIES)))
                if advance is not None:
                    before, done = done, len(queries) * places.stop // len(stored)
                    advance(done - before)
        return best, names

    def _queries(self, X: Rows, k: int) -> Iterator[NDArray[np.float32]]:
        """Rows at length 1, as many at a time as the memory holds; each part in the place of the last."""
        beside = LIVE * 4 * X.shape[1] * X.step if isinstance(X, Blocks) else 0
        part = np.empty((min(self._at_once(k, beside), len(X)), X.shape[1]), np.float32)
        filled = 0
        for _, block in in_blocks(X):
            block = block * _inverse_norms(block)[:, None]
            while len(block):
                some = block[: len(part) - filled]
                part[filled : filled + len(some)] = some
                filled, block = filled + len(some), block[len(some) :]
                if filled == len(part):
                    yield part
                    filled = 0
        if filled:
            yield part[:filled]

    def _at_once(self, k: int, beside: int = 0, copies: int = 1) -> int:
        """Rows that can be compared in one pass, of which the memory holds so many copies."""
        stored = self._stored()
        width = stored.shape[1]
        left = stored.memory - beside - 2 * 4 * width * _tile(stored)
        most = max(
            (left - left // LIVE) // (4 * width * copies + 12 * k), 1
        )  # a share: of what searches take
        return most - most % QUERIES if most > QUERIES else most

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


def _largest(values: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Columns (n, k) of the k largest values of each row (n, m), ascending; of equals the first."""
    if k >= values.shape[1]:
        return np.broadcast_to(np.arange(values.shape[1]), values.shape)
    least = np.partition(values, values.shape[1] - k, axis=1)[:, values.shape[1] - k]
    taken = values >= least[:, None]
    for row in np.flatnonzero(np.count_nonzero(taken, axis=1) != k):  # equals of which not all are among them
        taken[row] = False
        taken[row, np.argsort(-values[row], kind="stable")[:k]] = True
    return np.nonzero(taken)[1].reshape(len(values), k)


def _tile(stored: Blocks) -> int:
    """Rows of a tile: ``TILE``, or as many as a block has where even that is much of the memory."""
    return TILE if 2 * LIVE * 4 * stored.shape[1] * TILE <= stored.memory else min(stored.step, TILE)
