"""The nearest training images: found once, kept, and never taken from a file that is not theirs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from features.cache.embeddings import Embeddings
from models.heads.knn import QUERIES, KnnHead
from reports.context import kept
from reports.context.neighbours import NEAR_DUPLICATE, K, Neighbours, crowded, near_duplicates, neighbours
from tests.models.heads.test_heads import blobs

WIDTHS = {"block3": 6, "block4": 9, "block5": 9}


class Cache:
    """Embeddings in memory that have a place of their own; counts the searches."""

    def __init__(self, folder: Path, fingerprint: str = "f" * 64) -> None:
        self.path = folder / "pets-32px.h5"
        self.fingerprint = fingerprint
        self.layers = tuple(WIDTHS)
        self.rows = {"train": 80, "test": 40}
        self._y = np.arange(80) % 3
        self._X = {layer: blobs(rows=120, width=width)[0] for layer, width in WIDTHS.items()}
        self.read: list[Any] = []

    def matrix(self, split: str, layers: Any) -> NDArray[np.float32]:
        (layer,) = layers
        return self._X[layer][:80] if split == "train" else self._X[layer][80:]

    def blocks(self, split: str, layers: Any, rows: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        self.read.append((split, *layers, rows))
        for start in range(0, self.rows[split], rows):
            yield start, self.matrix(split, layers)[start : start + rows]

    def width(self, layer: str) -> int:
        return self._X[layer].shape[1]

    def labels(self) -> NDArray[np.int64]:
        return self._y

    def find(self, memory: int | None = None) -> Neighbours:
        return neighbours(self, memory)  # type: ignore[arg-type]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


def beside(cache: Cache) -> Path:
    return cache.path.with_name("pets-32px.neighbours.npz")


def test_they_are_scikit_learns_in_the_later_of_the_widest_layers(cache: Cache) -> None:
    found = cache.find()
    assert found.layer == "block5"
    assert found.rows.shape == found.similarities.shape == (40, K)
    assert (found.rows.dtype, found.similarities.dtype) == (np.int64, np.float32)
    train, test = cache.matrix("train", ["block5"]), cache.matrix("test", ["block5"])
    distances, rows = NearestNeighbors(n_neighbors=K, metric="cosine").fit(train).kneighbors(test)
    np.testing.assert_allclose(1 - found.similarities, distances, atol=1e-5)
    assert (found.rows == rows).mean() > 0.95


def test_the_layer_the_threshold_was_chosen_for_goes_first(cache: Cache) -> None:
    cache.layers = ("block3", "block4@2", "block5")
    cache._X["block4@2"] = cache._X["block3"]
    assert cache.find().layer == "block4@2"


@pytest.mark.parametrize("memory", [2_000, 40_000, 10**9])
def test_they_are_the_most_similar_however_little_memory_there_is(cache: Cache, memory: int) -> None:
    train, test = cache.matrix("train", ["block5"]), cache.matrix("test", ["block5"])
    train[[30, 31, 79]] = test[7] = train[2]  # copies, whose products may differ in the last digit
    train[8:70:10] = test[4]  # more than K
    test[9] = 0  # as similar to one as to another
    exact = np.stack([(train * np.float64(query)).sum(axis=1) for query in test])
    exact /= np.linalg.norm(train, axis=1) * np.maximum(np.linalg.norm(test, axis=1), 1e-30)[:, None]
    best = np.sort(exact, axis=1)[:, : -K - 1 : -1]
    found = cache.find(memory)
    np.testing.assert_allclose(found.similarities, best, atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(exact, found.rows, axis=1), best, atol=1e-6)
    assert found.rows[9].tolist() == list(range(K)), "of equally similar images the first"
    assert all(len(set(rows)) == K for rows in found.rows.tolist())


def test_blocks_and_passes_follow_the_memory(cache: Cache) -> None:
    def passes(memory: int) -> int:
        beside(cache).unlink(missing_ok=True)
        cache.read.clear()
        cache.find(memory)
        assert all(4 * 9 * rows <= max(memory / 16, 4 * 9) for _, _, rows in cache.read)
        return sum(split == "train" for split, *_ in cache.read)

    assert passes(10**6) == 1
    assert 1 < passes(3_000) < passes(1_500) <= 40


def test_the_width_of_a_layer_is_read_from_a_real_cache(real_embeddings: Embeddings) -> None:
    found = neighbours(real_embeddings)
    assert found.layer == "block5"
    assert found.rows.max() < real_embeddings.rows["train"]
    assert [path.suffix for path in sorted(real_embeddings.path.parent.glob("*.n*"))] == [".npz"]


@pytest.fixture
def real_embeddings(project: Any) -> Embeddings:
    assert project("features")[0] == 0
    return Embeddings(project.cache)


def test_they_are_kept(cache: Cache) -> None:
    first = cache.find()
    cache.read.clear()
    again = cache.find()
    assert not cache.read
    assert again.layer == first.layer
    assert np.array_equal(again.rows, first.rows)
    assert np.array_equal(again.similarities, first.similarities)
    assert [path.name for path in cache.path.parent.iterdir()] == ["pets-32px.neighbours.npz"]


@pytest.mark.parametrize("damage", ["a byte", "cut short", "no archive", "empty", "a value"])
def test_a_damaged_file_is_computed_again_and_replaced(cache: Cache, damage: str) -> None:
    first = cache.find()
    path = beside(cache)
    content = path.read_bytes()
    if damage == "a byte":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif damage == "a value":  # a whole archive that says what was not written
        with np.load(path) as archive:
            arrays = dict(archive)
        arrays["rows"][3, 1] += 1
        np.savez(path, **arrays)
    else:
        path.write_bytes({"cut short": content[:-40], "no archive": b"hello", "empty": b""}[damage])
    cache.read.clear()
    assert np.array_equal(cache.find().rows, first.rows)
    assert cache.read
    cache.read.clear()
    cache.find()
    assert not cache.read


@pytest.mark.parametrize(
    "lie",
    [
        {"rows": np.full((40, K), 80)},
        {"rows": np.full((40, K), -1)},
        {"rows": np.zeros((39, K), np.int64)},
        {"rows": np.full((40, K), "a")},
        {"similarities": np.full((40, K), np.nan, np.float32)},
        {"similarities": np.zeros((40, K), np.int64)},
        {"more": np.zeros(3)},
    ],
)
def test_what_cannot_be_neighbours_is_computed_again_though_its_digest_is_right(
    cache: Cache, lie: dict[str, NDArray[Any]]
) -> None:
    first = cache.find()
    origin = {"fingerprint": cache.fingerprint, "layer": first.layer, "k": K}
    kept.save(beside(cache), origin, {"rows": first.rows, "similarities": first.similarities} | lie)
    again = cache.find()
    assert np.array_equal(again.rows, first.rows)
    assert np.array_equal(again.similarities, first.similarities)


def test_a_file_of_another_fingerprint_is_not_trusted(cache: Cache, tmp_path: Path) -> None:
    cache.find()
    other = Cache(tmp_path, fingerprint="0" * 64)
    other.find()
    assert other.read


def test_no_pickle_is_ever_opened(cache: Cache) -> None:
    np.savez(beside(cache), about=np.array([{}], dtype=object))
    assert kept.load(beside(cache), {"fingerprint": cache.fingerprint}, lambda _: True) is None


def test_a_place_that_cannot_be_written_costs_a_line(
    cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    first = cache.find()
    beside(cache).unlink()
    beside(cache).mkdir()
    assert np.array_equal(cache.find().rows, first.rows)
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be written" in line
    assert list(cache.path.parent.iterdir()) == [beside(cache)]
    cache.path = cache.path.parent / "gone" / cache.path.name
    assert np.array_equal(cache.find().rows, first.rows)


def test_progress_counts_every_query() -> None:
    X, y = blobs(rows=QUERIES + 60)
    done: list[int] = []
    KnnHead().fit(X[:50], y[:50]).neighbours(X, 3, done.append)
    assert done == [QUERIES, 60]


def like(nearest: list[float], last: float = 0.1) -> Neighbours:
    similarities = np.full((len(nearest), K), last, np.float32)
    similarities[:, 0] = nearest
    return Neighbours("block5", np.zeros((len(nearest), K), np.int64), similarities)


def test_near_duplicates_come_most_similar_first() -> None:
    near = NEAR_DUPLICATE
    rows = near_duplicates(like([0.2, near + 0.01, near - 0.01, 1.0, near + 0.01]))
    assert rows.tolist() == [3, 1, 4]
    assert rows.dtype == np.int64
    assert near_duplicates(like([0.2])).tolist() == []


def test_where_all_images_are_alike_it_is_told() -> None:
    assert crowded(like([0.99] * 10, last=0.98))
    assert not crowded(like([0.99] * 10)), "a test split that repeats train once is not crowded"
