"""The effect of layers and image size on accuracy: seven sizes, six sets of layers, two heads.

    .venv/bin/python benchmarks/resolution.py --dataset $CIFAR10_OFFICIAL \\
        --weights $VGG16_WEIGHTS --out out/sizes

One pass of the network per size stores the layers of all sets. Layers and C are chosen by five-fold
cross-validation on the train split (``dense``: two of the five folds, since a fit on the widest sets takes
minutes); the choice for each size and head is then trained on the complete split and evaluated on the test
split once (``dense``: once per seed). An interrupted run resumes: existing caches and runs are reused, and
cross-validated accuracies are stored in ``OUT/resolution.json``. Prints two tables in Markdown.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from crossvalidation import cache_of, fits, sweep

from features.progress import say
from models.heads.registry import INVERSE_STRENGTH
from models.runs.saving import load
from reports.statistics.metrics import wilson
from reports.statistics.ranking import accuracy

HOME = Path(__file__).resolve().parents[1]
SIZES = (32, 48, 64, 96, 128, 160, 224)
MIRRORED = (32, 64)
SETS = (
    "block5",
    "block3,block4@2,block5",
    "block2@4,block3@4,block4@2,block5",
    "block3@2,block4@2,block5@2",
    "block3@4,block4@4,block5@2",
    "block3@4,block4@4,block5@4",
)
SEEDS = 3
DENSE_FOLDS = 2


def fitting(size: int) -> list[str]:
    """The sets whose grids are no finer than the maps at this size."""

    def fits_in(layer: str) -> bool:
        block, _, grid = layer.partition("@")
        return int(grid or 1) <= size // 2 ** int(block[-1])

    return [layers for layers in SETS if all(map(fits_in, layers.split(",")))]


def pipeline(*arguments: str) -> list[str]:
    """The lines printed by a command."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=HOME,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout.split("\n")[:-1]


def cross_validated(args: argparse.Namespace, size: int, mirror: bool, known: dict[str, Any]) -> None:
    """Add the cross-validated accuracies of all sets and heads at one size to ``known``."""
    cache = cache_of(args.out, args.dataset.name, size, mirror)
    y = cache.labels()
    for layers in fitting(size):
        key = f"{size}{' mirror' if mirror else ''} {layers}"
        if key in known:
            continue
        X = cache.matrix("train", layers.split(","))
        values = sweep("logistic", X, y, {"C": INVERSE_STRENGTH[:-2]})
        C = max(values, key=lambda value: values[value].mean())
        known[key] = {
            "width": X.shape[1],
            "C": C,
            "logistic": float(values[C].mean()),
            "dense": float(fits("dense", X, y, {}, parts=DENSE_FOLDS).mean()),
        }
        (args.out / "resolution.json").write_text(json.dumps(known, indent=1))
        say(f"{key}: logistic {known[key]['logistic']:.4f} (C = {C:g}), dense {known[key]['dense']:.4f}")


def looked(args: argparse.Namespace, size: int, mirror: bool, known: dict[str, Any], name: str) -> str:
    """The table row of the set chosen by cross-validation for a size and a head."""
    prefix = f"{size}{' mirror' if mirror else ''} "
    sets = {key.removeprefix(prefix): each for key, each in known.items() if key.startswith(prefix)}
    layers = max((key for key in sets if "mirror" not in key), key=lambda key: sets[key][name])
    chosen = sets[layers]
    command = ["train", "--dataset", str(args.dataset), "--out", str(args.out), "--image-size", str(size)]
    command += ["--precision", args.precision, "--layers", layers, "--head", name]
    command += ["--mirror"] if mirror else []
    command += ["--set", f"C={chosen['C']:g}"] if name == "logistic" else ["--seeds", str(SEEDS)]
    runs = [load(Path(folder)) for folder in pipeline(*command)]
    values = [accuracy(run) for run in runs]
    images = len(runs[0].test_labels)
    low, high = wilson(round(np.mean(values) * images), images)
    setting = f"`{name}`, C = {chosen['C']:g}" if name == "logistic" else f"`{name}`, mean of {SEEDS} seeds"
    return (
        f"| {size}{', mirrored' if mirror else ''} | {layers.replace(',', ' + ')} | {setting} "
        f"| {chosen[name]:.3f} | {np.mean(values):.3f} ({low:.3f}–{high:.3f}) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--precision", default="bfloat16")
    args = parser.parse_args()
    args.dataset, args.out = args.dataset.resolve(), args.out.resolve()
    kept = args.out / "resolution.json"
    known = json.loads(kept.read_text()) if kept.exists() else {}
    passes = [(size, False) for size in SIZES] + [(size, True) for size in MIRRORED]
    for size, mirror in passes:
        layers = sorted({layer for each in fitting(size) for layer in each.split(",")})
        command = ["features", "--dataset", str(args.dataset), "--weights", str(args.weights.resolve())]
        command += ["--out", str(args.out), "--image-size", str(size), "--precision", args.precision]
        pipeline(*command, "--layers", ",".join(layers), *(["--mirror"] if mirror else []))
        cross_validated(args, size, mirror, known)
    print("| px | layers | values per image | `logistic` (C) | `dense` |\n| --- | --- | --- | --- | --- |")
    for key, each in known.items():
        size, _, layers = key.rpartition(" ")
        cells = [f"{each['logistic']:.3f} ({each['C']:g})", f"{each['dense']:.3f}"]
        print(f"| {size} | {layers.replace(',', ' + ')} | {each['width']:,} | {' | '.join(cells)} |")
    print("\n| px | layers | head | cross-validated | test accuracy |\n| --- | --- | --- | --- | --- |")
    for size, mirror in passes:
        for name in ("logistic", "dense"):
            print(looked(args, size, mirror, known, name), flush=True)


if __name__ == "__main__":
    main()
