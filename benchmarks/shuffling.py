"""Accuracy of `dense` with partial shuffles (blocks, windows, parts) compared with a full shuffle.

    .venv/bin/python benchmarks/shuffling.py --embeddings FILE.h5 --layers block3,block4@2,block5
    .venv/bin/python benchmarks/shuffling.py --embeddings FILE.h5 --rows 5000 --seeds 2   # to try it out

Rows of a folder are sorted by class. Each scheme is an order of all rows in one epoch; *full* is a random
permutation. *Blocks*: blocks of neighbouring rows are read in random order into windows, and the rows of each
window are shuffled. *Parts*: each row is assigned to a random part once; parts are read in random order, and
the rows of each are shuffled, as in ``models.heads.spool.Scattered``. All rows are in memory, so that only
the order differs. Accuracies are on validation after all epochs (no early stopping), for each seed; the
difference from *full* is paired by seed. Prints rows of a table in Markdown.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))
from features.cache.embeddings import Embeddings
from features.datasets.splits import stratified
from models.heads.dense import DenseHead
from models.trainsplit import TrainSplit

Order = NDArray[np.int64]
Scheme = Callable[[Order], Order]
WINDOWS = (1_500, 6_000)  # rows in memory at a time
BLOCKS = (10, 50, 250, 1_000)  # rows per block


def ranks(order: Order) -> Order:
    """The rank of each row in an order."""
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank


def blocks(rows: int, window: int) -> Scheme:
    """Blocks of neighbouring rows in random order, shuffled within windows."""

    def scheme(order: Order) -> Order:
        number = np.arange(len(order)) // rows
        place = ranks(np.argsort(ranks(order)[::rows], kind="stable"))  # rank of each block
        return np.lexsort((ranks(order), place[number] // max(window // rows, 1)))

    return scheme


def parts(window: int) -> Scheme:
    """Random parts in random order, each shuffled."""

    def scheme(order: Order) -> Order:
        count = -(-len(order) // window)
        part = np.random.default_rng(0).permutation(len(order)) % count
        first = np.full(count, len(order))
        np.minimum.at(first, part, ranks(order))
        return np.lexsort((ranks(order), first[part]))

    return scheme


class Ordered(DenseHead):
    """The dense head with another order of rows in each epoch."""

    scheme: Scheme

    def _trainer(self, X: Any, codes: Any, epochs: int) -> Callable[[Order], None]:
        run = super()._trainer(X, codes, epochs)
        return lambda order: run(self.scheme(order))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--embeddings", type=Path, required=True)
    parser.add_argument("--layers", default="block3,block4@2,block5")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int)
    args = parser.parse_args()
    material = TrainSplit(Embeddings(args.embeddings), args.layers.split(","))
    X, y = material.X_fit, material.y_fit
    if args.rows is not None and args.rows < len(y):
        rows = stratified(y, args.rows, "shuffling")
        X, y = X[rows], y[rows]
    order = np.argsort(y, kind="stable")  # a folder's
    X, y = X[order], y[order]
    schemes: dict[str, Scheme] = {"full shuffle": lambda order: order, "no shuffle": np.sort}
    for window in WINDOWS:
        for rows_of_a_block in BLOCKS:
            if rows_of_a_block <= window:
                name = f"blocks of {rows_of_a_block:,} rows, windows of {window:,}"
                schemes[name] = blocks(rows_of_a_block, window)
        schemes[f"parts of {window:,} rows"] = parts(window)
    print(f"{len(y):,} x {X.shape[1]:,}, {args.seeds} seeds")
    print("| order | accuracy | standard deviation | less than a full shuffle (standard error) |")
    print("|---|---|---|---|")
    full: NDArray[np.float64] | None = None
    for name, scheme in schemes.items():
        reached = []
        for seed in range(args.seeds):
            head = Ordered(random_state=seed, patience=None)
            head.scheme = scheme
            head.set_params(**head.automatic(len(y)))
            reached.append(float((head.fit(X, y).predict(material.X_val) == material.y_val).mean()))
        found = np.array(reached)
        full = found if full is None else full
        less = full - found
        spread = f"{found.std(ddof=1):.4f}" if args.seeds > 1 else "-"
        error = f"{less.std(ddof=1) / np.sqrt(args.seeds):.4f}" if args.seeds > 1 else "-"
        print(f"| {name} | {found.mean():.4f} | {spread} | {less.mean():+.4f} ({error}) |", flush=True)


if __name__ == "__main__":
    main()
