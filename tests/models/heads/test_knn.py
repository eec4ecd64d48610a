"""Neighbours are exact, and vote as stated."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from models.heads.knn import GROUP, QUERIES, KnnHead
from tests.models.heads.test_heads import blobs


@pytest.mark.parametrize("rows", [GROUP - 3, 10 * GROUP, 1000])
@pytest.mark.parametrize("k", [1, 7, 40])
def test_neighbours_are_scikit_learns(rows: int, k: int) -> None:
    X, y = blobs(rows=rows)
    queries, _ = blobs(rows=QUERIES + 5)
    queries = queries + np.float32(0.1)
    similarities, found = KnnHead().fit(X, y).neighbours(queries, k)
    k = min(k, rows)
    distances, theirs = NearestNeighbors(n_neighbors=k, metric="cosine").fit(X).kneighbors(queries)
    np.testing.assert_allclose(1 - similarities, distances, atol=1e-5)
    assert (found == theirs).mean() > 0.99  # but for ties within rounding
    assert np.all(np.diff(similarities, axis=1) <= 0)


def test_of_rows_that_are_equally_similar_the_first_are_taken() -> None:
    X, y = blobs(rows=1000, width=64)
    X = np.where(np.median(X) < X, 1, -1).astype(
        np.float32
    )  # nothing is rounded, in whatever order it is summed
    X[300:900:25] = 2 * X[11]  # as similar
    similarities, found = KnnHead().fit(X, y).neighbours(X[11:12], 9)
    assert found[0].tolist() == [11, *range(300, 500, 25)]
    assert (similarities == similarities[0, 0]).all()


def test_votes_by_hand() -> None:
    X = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)
    head = KnnHead(k=2, temperature=0.5).fit(X, np.array([0, 1, 1]))
    second = np.exp((0.6 - 1) / 0.5)  # and once more, shared out as classes occur: 1/3 and 2/3
    expected = np.array([1 + second / 3, second + second * 2 / 3])
    np.testing.assert_allclose(head.predict_proba(X[:1])[0], expected / expected.sum(), rtol=1e-6)


def test_a_row_of_zeros_is_similar_to_nothing() -> None:
    X, y = blobs()
    X[0] = 0
    assert np.isfinite(KnnHead(k=5).fit(X, y).predict_proba(X)).all()


def test_a_sweep_gives_what_single_fits_give() -> None:
    X, y = blobs(rows=300)
    grid = {"k": (20, 5), "temperature": (0.1, 0.02)}
    tried = list(KnnHead().sweep(X[:200], y[:200], (X[200:], y[200:]), grid))
    assert len(tried) == 4
    for chosen, proba in tried:
        alone = KnnHead(**chosen).fit(X[:200], y[:200]).predict_proba(X[200:])
        np.testing.assert_allclose(proba, alone, atol=1e-6)
