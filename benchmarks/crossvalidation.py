"""Cross-validation on the train split: five stratified folds, the same for all settings."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold

sys.path.insert(0, str(Path(__file__).parents[1]))
from features.cache.embeddings import Embeddings
from features.datasets.splits import stratified
from models.heads.registry import head

FOLDS = 5


def cache_of(folder: Path, dataset: str, image_size: int, mirror: bool = False) -> Embeddings:
    """The cache with this dataset name, image size and mirroring below ``OUT/embeddings``."""
    found = [
        cache
        for cache in map(Embeddings, sorted((folder / "embeddings").glob("*.h5")))
        if (cache.dataset["name"], cache.spec["image_size"], cache.spec["mirror"])
        == (dataset, image_size, mirror)
    ]
    if len(found) != 1:
        sys.exit(
            f"{folder}: {len(found)} caches of {dataset} at {image_size} px, mirror={mirror}; expected one"
        )
    return found[0]


def folds(y: NDArray[np.int64], rows: int | None = None) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield rows to fit (at most ``rows``, stratified and nested) and held-out rows of each fold."""
    cut = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    for number, (fit, held_out) in enumerate(cut.split(y, y)):
        if rows is not None and rows < len(fit):
            fit = fit[stratified(y[fit], rows, f"cross-validation {number}")]
        yield fit, held_out


def sweep(
    name: str,
    X: NDArray[np.float32],
    y: NDArray[np.int64],
    grid: Mapping[str, Sequence[Any]],
    rows: int | None = None,
) -> dict[Any, NDArray[np.bool_]]:
    """Which held-out rows are predicted correctly, ``(n,)``, for each value of the swept parameter."""
    (values,) = grid.values()
    right = {value: np.zeros(len(y), bool) for value in values}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for fit, held_out in folds(y, rows):
            for chosen, proba in head(name).make(0).sweep(X[fit], y[fit], (X[held_out], y[held_out]), grid):
                (value,) = chosen.values()
                right[value][held_out] = proba.argmax(axis=1) == y[held_out]
    return right


def fits(
    name: str,
    X: NDArray[np.float32],
    y: NDArray[np.int64],
    settings: Mapping[str, Any],
    rows: int | None = None,
    parts: int = FOLDS,
) -> NDArray[np.bool_]:
    """Which held-out rows are predicted correctly by a head with these settings (seed 0).

    Shape ``(n,)``, in the order of the rows; with fewer ``parts`` than folds, only rows of the first folds.
    """
    right, seen = np.zeros(len(y), bool), np.zeros(len(y), bool)
    for fit, held_out in islice(folds(y, rows), parts):
        estimator = head(name, settings).make(0).fit(X[fit], y[fit])
        right[held_out] = estimator.predict(X[held_out]) == y[held_out]
        seen[held_out] = True
    return right[seen]
