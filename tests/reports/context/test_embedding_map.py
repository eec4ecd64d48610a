"""The map: a stratified sample, the same every time, also of next to nothing."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from features.cache.embeddings import Embeddings
from reports.context import embedding_map as module
from reports.context import kept
from reports.context.embedding_map import EmbeddingMap, embedding_map, project
from tests.models.heads.test_heads import blobs


class Cache:
    """Test embeddings in memory that have a place of their own; notes what is read."""

    dataset: ClassVar[dict[str, Any]] = {"digest": "d"}

    def __init__(self, folder: Path, rows: int = 90, fingerprint: str = "f" * 64) -> None:
        self.path = folder / "pets-32px.h5"
        self.fingerprint = fingerprint
        self.labels = np.arange(rows) % 3
        self._X = {"block3": blobs(rows=rows)[0], "block5": blobs(rows=rows, width=3)[0] + 1}
        self.read: list[tuple[str, str, int]] = []

    def rows_of(self, split: str, layer: str, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        self.read.append((split, layer, len(rows)))
        return self._X[layer][rows]

    def width(self, layer: str) -> int:
        return self._X[layer].shape[1]

    def draw(self, *layers: str) -> EmbeddingMap:
        drawn = self.draw_within(None, *layers)
        assert drawn is not None
        return drawn

    def draw_within(self, memory: int | None, *layers: str) -> EmbeddingMap | None:
        return embedding_map(self, layers or ("block3", "block5"), self.labels, memory)  # type: ignore[arg-type]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


def test_the_axes_are_the_principal_ones(cache: Cache) -> None:
    drawn = cache.draw()
    assert drawn.rows.tolist() == list(range(90))
    both = np.hstack([cache._X["block3"], cache._X["block5"]])
    axes = PCA(2).fit(scaled := StandardScaler().fit_transform(both))
    np.testing.assert_allclose(np.abs(drawn.pca), np.abs(axes.transform(scaled)), atol=1e-3)
    np.testing.assert_allclose(drawn.explained, axes.explained_variance_ratio_, atol=1e-4)
    assert drawn.tsne.shape == (90, 2)
    assert drawn.tsne.dtype == drawn.pca.dtype == np.float32
    centres = np.array([drawn.tsne[cache.labels == label].mean(axis=0) for label in range(3)])
    nearest = np.linalg.norm(drawn.tsne[:, None] - centres, axis=2).argmin(axis=1)
    assert (nearest == cache.labels).mean() > 0.9


def test_a_sample_is_stratified_and_only_it_is_read(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POINTS", 30)
    monkeypatch.setattr(module, "BLOCK", 8)
    drawn = cache.draw()
    assert np.bincount(cache.labels[drawn.rows]).tolist() == [10, 10, 10]
    assert {split for split, *_ in cache.read} == {"test"}
    assert sum(rows for *_, rows in cache.read) == 2 * 30
    assert max(rows for *_, rows in cache.read) == 8


def test_more_classes_than_points_are_all_there(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POINTS", 2)
    assert len(cache.draw().rows) == 3


def test_it_is_the_same_every_time(tmp_path: Path) -> None:
    one, two = (Cache(tmp_path / name).draw() for name in "ab")
    for name in ("rows", "pca", "tsne", "explained"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name


def test_it_is_kept_layers_by_layers(cache: Cache) -> None:
    first = cache.draw()
    cache.draw("block5")
    assert len(list(cache.path.parent.glob("pets-32px.map-????????.npz"))) == 2
    cache.read.clear()
    again = cache.draw()
    assert not cache.read
    assert again.explained == first.explained
    assert np.array_equal(again.tsne, first.tsne)


def test_a_damaged_file_or_one_of_others_is_computed_again(cache: Cache, tmp_path: Path) -> None:
    first = cache.draw("block5")
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    cache.read.clear()
    assert np.array_equal(cache.draw("block5").tsne, first.tsne)
    assert cache.read
    other = Cache(tmp_path, fingerprint="0" * 64)
    other.draw("block5")
    assert other.read
    cache.labels = cache.labels[:60]
    assert len(cache.draw("block5").rows) == 60


@pytest.mark.parametrize(
    "lie",
    [
        {"rows": np.arange(1, 91)},
        {"pca": np.zeros((89, 2), np.float32)},
        {"pca": np.full((90, 2), "a")},
        {"tsne": np.full((90, 2), np.inf, np.float32)},
        {"explained": np.array([0.5, np.nan])},
        {"explained": np.array([0.5, 1.5])},
        {"more": np.zeros(3)},
    ],
)
def test_what_cannot_be_a_map_is_computed_again_though_its_digest_is_right(
    cache: Cache, lie: dict[str, NDArray[Any]]
) -> None:
    first = cache.draw("block5")
    (path,) = cache.path.parent.iterdir()
    names = ("rows", "pca", "tsne", "explained")
    arrays = {name: np.asarray(getattr(first, name)) for name in names} | lie
    kept.save(path, {"fingerprint": cache.fingerprint, "layers": ["block5"]}, arrays)
    cache.read.clear()
    again = cache.draw("block5")
    assert cache.read
    assert all(np.array_equal(getattr(again, name), getattr(first, name)) for name in names)


@pytest.mark.parametrize("shape", [(2, 5), (9, 1), (30, 1), (12, 2), (3, 80)])
def test_next_to_nothing_still_has_a_map(shape: tuple[int, int]) -> None:
    X = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    pca, tsne, explained = project(X)
    assert pca.shape == tsne.shape == (len(X), 2)
    assert np.isfinite(tsne).all()
    assert np.isfinite(pca).all()
    assert 0 < explained.sum() <= 1 + 1e-5
    if shape[1] == 1:
        assert not pca[:, 1].any()


def test_rows_that_are_all_the_same_are_one_point() -> None:
    pca, tsne, explained = project(np.full((40, 6), 0.1, np.float32))
    assert not pca.any()
    assert not tsne.any()
    assert explained.tolist() == [0, 0]


def test_a_sample_that_the_memory_does_not_hold_is_told_and_not_drawn(
    cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = module.BYTES * 90 * (cache.width("block3") + 3)
    assert cache.draw_within(needed - 1) is None
    assert "the map of 90 test images needs 0.0 GB of memory, and 0.0 GB may" in capsys.readouterr().err
    assert not cache.read
    first = cache.draw_within(needed)
    assert first is not None
    again = cache.draw_within(1)  # it is kept
    assert again is not None
    assert np.array_equal(again.tsne, first.tsne)


def test_it_takes_the_memory_that_is_reckoned() -> None:
    X = np.random.default_rng(0).gamma(2, size=(600, 9_000)).astype(np.float32)
    project(X[:20].copy())  # what is imported late
    tracemalloc.start()
    try:
        project(X)
        assert X.nbytes + tracemalloc.get_traced_memory()[1] <= module.BYTES * X.size
    finally:
        tracemalloc.stop()


def test_a_real_cache_has_a_map(project: Any) -> None:
    assert project("features")[0] == 0
    cache = Embeddings(project.cache)
    drawn = embedding_map(cache, cache.layers, np.repeat([0, 1], 6))
    assert drawn is not None
    assert drawn.tsne.shape == (12, 2)
