"""The training images nearest to each test image, and near-duplicates among them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.budget import memory_of
from features.cache.embeddings import Embeddings
from features.progress import progress
from models.arrays import Arrays
from models.heads.knn import KnnHead
from models.storedrows import StoredRows
from reports.context import kept

CALIBRATED, CALIBRATED_SIZE = "block4@2", 32  # layer and image size for which NEAR_DUPLICATE was chosen
K = 5  # training images stored per test image
NEAR_DUPLICATE = 0.94  # cosine from which two images count as near-duplicates
CROWDED = 0.05  # share of test images with K such neighbours above which the criterion fails


@dataclass(frozen=True)
class Neighbours:
    """The ``K`` most similar training images of each test image, most similar first.

    Attributes
    ----------
    layer : the layer whose vectors were compared.
    rows : (n, K) rows of the train split.
    similarities : (n, K) cosines.
    """

    layer: str
    rows: NDArray[np.int64]
    similarities: NDArray[np.float32]


def neighbours(embeddings: Embeddings, memory: int | str | None = None) -> Neighbours:
    """Find the training images nearest to each test image, in one layer, exactly.

    The layer is ``CALIBRATED`` if the cache has it, otherwise the widest (the last of several). Both splits
    are read in blocks, train once for as many test images as fit; of equally similar training images the
    first are taken. The result is the same bit for bit in any memory that holds 4,096 rows, and up to
    rounding in less. It is stored beside the cache as ``<stem>.neighbours.npz``. Test labels are not read.

    Parameters
    ----------
    memory : limit in bytes, or as in ``4GB``; None: the free memory less a tenth.

    Raises
    ------
    UserError
        The cache is damaged, or holds values that are not finite.
    """
    layer = CALIBRATED if CALIBRATED in embeddings.layers else _widest(embeddings)
    path = embeddings.path.with_name(f"{embeddings.path.stem}.neighbours.npz")
    origin = {"fingerprint": embeddings.fingerprint, "layer": layer, "k": K}

    def holds(found: Arrays) -> bool:
        shape = (embeddings.rows["test"], K)
        return (
            found.keys() == {"rows", "similarities"}
            and kept.is_table(found["rows"], shape, "i", 0, embeddings.rows["train"] - 1)
            and kept.is_table(found["similarities"], shape, "f", -1.01, 1.01)
        )

    arrays = kept.load(path, origin, holds)
    if arrays is None:
        budget = memory_of(memory)
        train, test = (StoredRows(embeddings, split, [layer], budget) for split in ("train", "test"))
        head = KnnHead().fit(train, embeddings.labels())
        with progress(len(test), "nearest training images", "img", delay=1) as bar:
            similarities, rows = head.neighbours(test, K, bar.update)
        arrays = {"rows": rows, "similarities": similarities}
        kept.save(path, origin, arrays)
    return Neighbours(layer, arrays["rows"], arrays["similarities"])


def near_duplicates(found: Neighbours) -> NDArray[np.int64]:
    """Test rows whose nearest training image has at least ``NEAR_DUPLICATE`` similarity, most similar first.

    B. Barz and J. Denzler, Do we train on test data? Purging CIFAR of near-duplicates, Journal of
    Imaging 6(6), 2020, found by eye that 3.25% of CIFAR-10's test images have a near-duplicate in
    train. Here, block4@2 at 32 px finds 300 of 10,000 (3.00%). The threshold was chosen by inspecting
    pairs: above it, about 98% show the same photograph (cropped, shifted, recoloured), and the others mostly
    similar aircraft or two photographs of one car. From 0.93 to 0.94 (70 more pairs) it is 90%, from 0.90 to
    0.91 two thirds. At 64 and 128 px similarities of the same pairs are 0.03 lower, and unrelated images stay
    below 0.87, so the count is a lower bound.

    If :func:`crowded` is true, the result is meaningless.
    """
    nearest = found.similarities[:, 0]
    order = np.argsort(-nearest, kind="stable")
    return np.asarray(order[nearest[order] >= NEAR_DUPLICATE])


def crowded(found: Neighbours) -> bool:
    """Whether images are too similar in general for near-duplicates to be determined.

    True if more than ``CROWDED`` of the test images have ``K`` training images of ``NEAR_DUPLICATE``
    similarity: images occur many times, or all are similar, which the cosine cannot distinguish. For
    CIFAR-10 the share is 0.15%; for scikit-learn's 8 x 8 digits, which are all different, it is 23% (and 59%
    would count as near-duplicates).
    """
    return bool((found.similarities[:, -1] >= NEAR_DUPLICATE).mean() > CROWDED)


def _widest(embeddings: Embeddings) -> str:
    widths = [embeddings.width(layer) for layer in embeddings.layers]
    return embeddings.layers[max(range(len(widths)), key=lambda place: (widths[place], place))]
