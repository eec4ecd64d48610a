"""Learning curves, extrapolated to ten times as many training images.

    .venv/bin/python benchmarks/extrapolation.py --out out/sizes --dataset cifar10-official \\
        --image-size 32 --layers block3,block4@2,block5
    .venv/bin/python benchmarks/extrapolation.py ... --dataset same-as-jpeg --all cifar10-jpeg

Reads the cache of ``--dataset`` (the name of its folder) below ``OUT/embeddings``. Accuracy is estimated by
five-fold cross-validation for fits on 250 images to four fifths of all; ``logistic`` at the best C for each
size. The error is fitted by ``a + b n**-c`` and ``b n**-c`` (power laws with and without an asymptote: T.
Viering and M. Loog, The shape of learning curves: a review, 2022, section 4), and both predictions are
averaged. The interval covers 95% of both predictions over 1,000 bootstrap samples of the images. ``--all``
names the cache of a larger sample from the same source, whose measured accuracy (on its validation split,
fitted on the rest) is printed beside the extrapolation. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
from crossvalidation import FOLDS, cache_of, fits, sweep
from numpy.typing import NDArray
from scipy.optimize import OptimizeWarning, curve_fit

from features.cache.embeddings import Embeddings
from features.progress import say
from models.heads.registry import INVERSE_STRENGTH, head
from models.trainsplit import TrainSplit

SIZES = (250, 500, 1_000, 2_000)  # and four fifths of the images
TARGET = 50_000
DRAWS = 1_000


def power_law(n: NDArray[np.float64], floor: float, factor: float, rate: float) -> NDArray[np.float64]:
    """The error for ``n`` images; ``factor`` is the reducible error at 1,000 images."""
    return np.asarray(floor + factor * (n / 1_000) ** -rate)


def extrapolated(
    n: NDArray[np.float64], error: NDArray[np.float64], images: int, target: float
) -> tuple[float, float]:
    """The error at ``target`` by the power law with and without an asymptote."""
    sigma = np.sqrt(error * (1 - error) / images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)
        free, _ = curve_fit(
            power_law, n, error, (0.05, 0.2, 0.4), sigma, bounds=([0, 0, 0.01], [1, 2, 3]), max_nfev=10_000
        )
        bare, _ = curve_fit(
            lambda n, factor, rate: power_law(n, 0.0, factor, rate), n, error, (0.25, 0.2), sigma
        )
    return float(power_law(target, *free)), float(power_law(target, 0.0, *bare))


def right_by_size(name: str, X: NDArray[np.float32], y: NDArray[np.int64]) -> dict[int, NDArray[np.bool_]]:
    """Which held-out images are predicted correctly, ``(n,)``, by number of fitted images."""
    found = {}
    for rows in (*SIZES, len(y) * (FOLDS - 1) // FOLDS):
        if name == "dense":
            found[rows] = fits(name, X, y, {}, rows)
        else:
            values = sweep(name, X, y, {"C": INVERSE_STRENGTH[:-2]}, rows)
            found[rows] = max(values.values(), key=lambda right: right.mean())
        say(f"{name}, {rows:,} images: {found[rows].mean():.4f}")
    return found


def measured(cache: Embeddings, layers: list[str], name: str) -> tuple[int, float]:
    """Number of fitted images and validation accuracy for the larger cache, with the best C of the grid."""
    rows = TrainSplit(cache, layers)
    if name == "dense":
        proba = head(name).make(0).fit(rows.X_fit, rows.y_fit).predict_proba(rows.X_val)
        return len(rows.y_fit), float((proba.argmax(axis=1) == rows.y_val).mean())
    tried = (
        head(name)
        .make(0)
        .sweep(rows.X_fit, rows.y_fit, (rows.X_val, rows.y_val), {"C": INVERSE_STRENGTH[:-2]})
    )
    return len(rows.y_fit), max(float((proba.argmax(axis=1) == rows.y_val).mean()) for _, proba in tried)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--layers", required=True)
    parser.add_argument("--head", action="append", choices=("logistic", "dense"))
    parser.add_argument("--all")
    args = parser.parse_args()
    layers = args.layers.split(",")
    cache = cache_of(args.out, args.dataset, args.image_size)
    X, y = cache.matrix("train", layers), cache.labels()
    target = TARGET
    print("| head | " + " | ".join(f"{rows:,}" for rows in (*SIZES, len(y) * (FOLDS - 1) // FOLDS)), end="")
    print(" | extrapolated to | accuracy there | measured there |")
    print("| --- " * (len(SIZES) + 5) + "|")
    for name in args.head or ("logistic", "dense"):
        right = right_by_size(name, X, y)
        seen = ""
        if args.all:
            target, value = measured(cache_of(args.out, args.all, args.image_size), layers, name)
            seen = f"{value:.3f}"
        n, table = np.array(list(right), float), np.stack(list(right.values()))
        rng = np.random.default_rng(0)
        drawn = []
        for _ in range(DRAWS):
            some = rng.integers(0, len(y), len(y))
            drawn += extrapolated(n, 1 - table[:, some].mean(axis=1), len(y), target)
        middle = 1 - np.mean(extrapolated(n, 1 - table.mean(axis=1), len(y), target))
        low, high = np.quantile(1 - np.array(drawn), [0.025, 0.975])
        cells = " | ".join(f"{each.mean():.3f}" for each in right.values())
        row = f"| `{name}` | {cells} | {target:,} | {middle:.3f} ({low:.3f}–{high:.3f}) | {seen} |"
        print(row, flush=True)


if __name__ == "__main__":
    sys.exit(main())
