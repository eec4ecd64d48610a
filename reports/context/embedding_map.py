"""2-D maps of a sample of test embeddings: PCA and t-SNE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from features.budget import gigabytes, memory_of
from features.cache.embeddings import Embeddings, canonical_digest
from features.datasets.splits import stratified
from features.progress import say
from models.arrays import Arrays
from reports.context import kept

POINTS = 2_000  # test images on the map: more would overlap, and t-SNE takes 10 s for these
COMPONENTS = 50  # principal components as input of t-SNE; van der Maaten and Hinton, 2008, used 30
PERPLEXITY = 30.0  # scikit-learn's default
LEAST = 10  # images below which t-SNE is not run
BLOCK = 100  # rows read at a time
COLUMNS = 256  # standardised at a time
BYTES = 6  # that a number of the sample takes: 4, and half as much again while the axes are found


@dataclass(frozen=True)
class EmbeddingMap:
    """Coordinates of some test images.

    Attributes
    ----------
    rows : (m,) rows of the test split, ascending.
    pca : (m, 2) first two principal components of the standardised vectors.
    tsne : (m, 2) t-SNE of the first ``COMPONENTS`` principal components.
    explained : share of the variance explained by each component of ``pca``.
    """

    rows: NDArray[np.int64]
    pca: NDArray[np.float32]
    tsne: NDArray[np.float32]
    explained: tuple[float, float]


def embedding_map(
    embeddings: Embeddings,
    layers: Sequence[str],
    labels: NDArray[np.int64],
    memory: int | str | None = None,
) -> EmbeddingMap | None:
    """Map a stratified sample of at most ``POINTS`` test images.

    The result is stored beside the cache as ``<stem>.map-<digest of the layers>.npz``. If the sample does not
    fit in memory, a note says so and the result is None.

    Parameters
    ----------
    embeddings : the cache, of which only the sampled rows are read.
    layers : concatenated by columns.
    labels : (n,) class numbers of the test split from a run, for stratification.
    memory : limit in bytes, or as in ``4GB``; None: the free memory less a tenth.
    """
    count = min(len(labels), max(POINTS, len(np.unique(labels))))
    rows = stratified(labels, count, f"map {embeddings.dataset['digest']}")
    short = canonical_digest(list(layers))[:8]
    path = embeddings.path.with_name(f"{embeddings.path.stem}.map-{short}.npz")
    origin = {"fingerprint": embeddings.fingerprint, "layers": list(layers)}
    arrays = kept.load(path, origin, lambda found: _is_map_of(found, rows))
    if arrays is None:
        needed, free = BYTES * len(rows) * sum(map(embeddings.width, layers)), memory_of(memory)
        if needed > free:
            say(
                f"note: the map of {len(rows):,} test images needs {gigabytes(needed)} of memory, and "
                f"{gigabytes(free)} may be taken (memory=); the report goes without it"
            )
            return None
        pca, tsne, explained = project(_vectors(embeddings, layers, rows))
        arrays = {"rows": rows, "pca": pca, "tsne": tsne, "explained": explained}
        kept.save(path, origin, arrays)
    first, second = map(float, arrays["explained"])
    return EmbeddingMap(arrays["rows"], arrays["pca"], arrays["tsne"], (first, second))


def _is_map_of(found: Arrays, rows: NDArray[np.int64]) -> bool:
    """Whether stored arrays are a valid map of these rows."""
    most = float(np.finfo(np.float32).max)
    return (
        found.keys() == {"rows", "pca", "tsne", "explained"}
        and np.array_equal(found["rows"], rows)
        and all(kept.is_table(found[name], (len(rows), 2), "f", -most, most) for name in ("pca", "tsne"))
        and kept.is_table(found["explained"], (2,), "f", 0, 1)
    )


def project(
    X: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """PCA and t-SNE of ``X`` (m, d): two arrays (m, 2), and the explained variance ratios (2,).

    ``X`` is overwritten. For fewer than ``LEAST`` rows, or identical rows, t-SNE is replaced by PCA. Missing
    components are 0. Runs in one thread: with more, another order of summation is amplified by t-SNE to
    another map.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1), np.errstate(invalid="ignore"):  # 0 / 0 without variance
        for start in range(0, X.shape[1], COLUMNS):
            StandardScaler(copy=False).fit_transform(X[:, start : start + COLUMNS])
        axes = PCA(min(COMPONENTS, *X.shape), random_state=0, copy=False)
        places = axes.fit_transform(X)
        missing = max(0, 2 - places.shape[1])
        places = np.pad(places, ((0, 0), (0, missing))).astype(np.float32)
        shares = np.nan_to_num(np.pad(axes.explained_variance_ratio_, (0, missing))[:2])
        tsne = pca = places[:, :2].copy()
        if len(X) >= LEAST and pca.std() > 0:
            perplexity = min(PERPLEXITY, (len(X) - 1) / 3)
            tsne = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(places)
    return pca, tsne.astype(np.float32), shares.astype(np.float64)


def _vectors(embeddings: Embeddings, layers: Sequence[str], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Some test rows of the layers, concatenated by columns, ``(m, d)``."""
    ends = np.cumsum([0, *map(embeddings.width, layers)])
    found = np.empty((len(rows), ends[-1]), np.float32)
    for layer, (first, end) in zip(layers, pairwise(ends), strict=True):
        for start in range(0, len(rows), BLOCK):
            some = slice(start, start + BLOCK)
            found[some, first:end] = embeddings.rows_of("test", layer, rows[some])
    return found
