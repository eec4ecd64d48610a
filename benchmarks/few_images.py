"""Epochs and input dropout of `dense` for few images, by cross-validation on the train split.

    .venv/bin/python benchmarks/few_images.py --out out/sizes --dataset cifar10-official --image-size 64 \\
        --layers block3@2,block4@2,block5@2 --rows 1000 --rows 4000

Reads the cache of ``--dataset`` (the name of its folder) below ``OUT/embeddings``. Accuracy is estimated by
five-fold cross-validation with fits on ``--rows`` images. ``auto`` is the rule of ``DenseHead.automatic``; it
is compared with the earlier fixed values and with values near the rule. Prints rows of a table in Markdown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from crossvalidation import cache_of, fits, sweep

from models.heads.dense import DenseHead
from models.heads.registry import INVERSE_STRENGTH

BEFORE = {"epochs": 12, "input_dropout": 0.2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--layers", required=True)
    parser.add_argument("--rows", type=int, action="append", required=True)
    args = parser.parse_args()
    cache = cache_of(args.out, args.dataset, args.image_size)
    X, y = cache.matrix("train", args.layers.split(",")), cache.labels()
    for rows in args.rows:
        auto = {name: DenseHead().automatic(rows)[name] for name in BEFORE}
        tried = {
            "before": BEFORE,
            "epochs alone": auto | {"input_dropout": BEFORE["input_dropout"]},
            "dropout alone": auto | {"epochs": BEFORE["epochs"]},
            "auto": auto,
            "twice the epochs": auto | {"epochs": 2 * auto["epochs"]},
        }
        cells = [f"{fits('dense', X, y, settings, rows).mean():.4f}" for settings in tried.values()]
        linear = sweep("logistic", X, y, {"C": INVERSE_STRENGTH[:-2]}, rows)
        best = max(right.mean() for right in linear.values())
        rule = f"{auto['epochs']}, {auto['input_dropout']:g}"
        row = [f"{args.dataset}, {args.image_size} px", f"{rows:,}", rule, *cells, f"{best:.4f}"]
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
