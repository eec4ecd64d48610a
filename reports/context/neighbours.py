"""The training images nearest to each test image, and which of them are all but the same image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.cache.embeddings import Embeddings
from features.progress import progress
from models.arrays import Arrays
from models.heads.knn import KnnHead
from reports.context import kept

CALIBRATED, CALIBRATED_SIZE = "block4@2", 32  # the layer and the pixels for which NEAR_DUPLICATE was chosen
K = 5  # training images kept for each test image
NEAR_DUPLICATE = 0.94  # cosine from which two images are taken to be one photograph: near_duplicates
CROWDED = 0.05  # share of test images with K such neighbours above which that cannot be told: crowded


@dataclass(frozen=True)
class Neighbours:
    """The ``K`` most similar training images of each test image, most similar first.

    Attributes
    ----------
    layer : whose vectors were compared.
    rows : (n, K) rows of the train split.
    similarities : (n, K) cosines.
    """

    layer: str
    rows: NDArray[np.int64]
    similarities: NDArray[np.float32]


def neighbours(embeddings: Embeddings) -> Neighbours:
    """Compare all test images with all training images, in one layer; exact, and kept.

    The layer is ``CALIBRATED`` where the cache has it, else the widest, of equals the later. The
    result lies beside the cache as ``<stem>.neighbours.npz``. The labels of the test split are not read.
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
        head = KnnHead().fit(embeddings.matrix("train", [layer]), embeddings.labels())
        test = embeddings.matrix("test", [layer])
        with progress(len(test), "nearest training images", "img", delay=1) as bar:
            similarities, rows = head.neighbours(test, K, bar.update)
        arrays = {"rows": rows, "similarities": similarities}
        kept.save(path, origin, arrays)
    return Neighbours(layer, arrays["rows"], arrays["similarities"])


def near_duplicates(found: Neighbours) -> NDArray[np.int64]:
    """Test rows whose nearest training image is at least ``NEAR_DUPLICATE`` similar, most similar first.

    B. Barz and J. Denzler, Do we train on test data? Purging CIFAR of near-duplicates, Journal of
    Imaging 6(6), 2020, found by eye that 3.25% of CIFAR-10's test images have a near-duplicate in
    train. Here, block4@2 at 32 px finds 300 of 10,000 (3.00%). The constant was chosen by looking at
    pairs: of those above it about 98 in 100 are one photograph (cropped, shifted, recoloured), the
    rest mostly other aircraft or another photograph of one car. Between 0.93 and 0.94 (70 pairs more)
    it is 9 in 10, between 0.90 and 0.91 two in three. At 64 and 128 px the same pairs are 0.03 less
    similar, and unrelated images stay below 0.87: there the count is a lower bound.

    Where :func:`crowded` is true, the count says nothing.
    """
    nearest = found.similarities[:, 0]
    order = np.argsort(-nearest, kind="stable")
    return np.asarray(order[nearest[order] >= NEAR_DUPLICATE])


def crowded(found: Neighbours) -> bool:
    """Whether images are so alike throughout that a near-duplicate is nothing out of the ordinary.

    True if more than ``CROWDED`` of the test images have ``K`` training images of ``NEAR_DUPLICATE``
    similarity: every image is there many times over, or all are alike, and the cosine cannot tell
    which. Of CIFAR-10's test images 0.15% are such; of scikit-learn's 8 x 8 digits, no two of which
    are the same, 23% (and 59% would count as near-duplicates).
    """
    return bool((found.similarities[:, -1] >= NEAR_DUPLICATE).mean() > CROWDED)


def _widest(embeddings: Embeddings) -> str:
    nothing = slice(0, 0)
    widths = [embeddings.rows_of("train", layer, nothing).shape[1] for layer in embeddings.layers]
    return embeddings.layers[max(range(len(widths)), key=lambda place: (widths[place], place))]
