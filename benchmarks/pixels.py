"""The effect of JPEG compression on accuracy: official CIFAR-10 images and their JPEG copies, paired.

    .venv/bin/python benchmarks/pixels.py --official $CIFAR10_OFFICIAL --jpeg $CIFAR10_JPEG \\
        --weights $VGG16_WEIGHTS --out out/pixels

Finds the JPEG copy of each official image as the nearest pixels within its class and split, checks the pairs
(each copy is used once, and the copies of each batch are in the official order), copies them to
``OUT/same-as-jpeg`` under the official names, embeds both folders, trains ``logistic`` on each, and compares
the test predictions image by image. ``--setting 64:block3@2,block4@2,block5@2`` (repeatable) sets other
sizes and layers. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from features.progress import say
from models.runs.run import Run
from models.runs.saving import load
from reports.statistics.metrics import wilson
from reports.statistics.paired import compare
from reports.statistics.ranking import accuracy, is_right

HOME = Path(__file__).resolve().parents[1]
SETTINGS = (
    "32:block3,block4@2,block5",
    "64:block3@2,block4@2,block5@2",
    "128:block3@2,block4@2,block5@2",
    "224:block5",
)


def pixels(files: list[Path]) -> NDArray[np.float32]:
    """The pixels of image files of CIFAR-10, ``(n, 3072)``."""
    return np.stack([np.asarray(Image.open(file).convert("RGB"), np.float32).ravel() for file in files])


def pair(official: list[Path], copies: list[Path]) -> tuple[list[Path], NDArray[np.float64]]:
    """The copy of each official image of one class, and their RMS distance out of 255."""
    ours, theirs = pixels(official), pixels(copies)
    squared = (ours**2).sum(1)[:, None] - 2 * ours @ theirs.T + (theirs**2).sum(1)
    nearest = squared.argmin(axis=1)
    if len(set(nearest)) < len(nearest):
        sys.exit(f"{official[0].parent}: two official images have one copy nearest to both")
    batches = [file.stem.rpartition("-")[0] for file in official]
    for batch in set(batches):
        places = [place for place, of in zip(nearest, batches, strict=True) if of == batch]
        if places != sorted(places):
            sys.exit(f"{official[0].parent}: the copies of {batch} do not lie in the official order")
    return [copies[place] for place in nearest], np.sqrt(((ours - theirs[nearest]) ** 2).mean(axis=1))


def lay_out(official: Path, jpeg: Path, target: Path) -> None:
    """Copy the JPEG of each official image to ``target``, under the official image's name."""
    distances = []
    for folder in sorted(official.glob("*/*")):
        names = sorted(folder.glob("*.png"))
        inner = folder.relative_to(official)
        copies, rms = pair(names, sorted((jpeg / inner).glob("*.jpg")))
        distances.append(rms)
        (target / inner).mkdir(parents=True, exist_ok=True)
        for name, copy in zip(names, copies, strict=True):
            shutil.copyfile(copy, target / inner / f"{name.stem}.jpg")
    found = np.concatenate(distances)
    say(f"{len(found):,} pairs; RMS distance of 255: median {np.median(found):.1f}, most {found.max():.1f}")


def trained(dataset: Path, setting: str, args: argparse.Namespace) -> Run:
    """The run of ``logistic`` with one setting on one folder; existing caches and runs are reused."""
    size, layers = setting.split(":")
    common = ["--dataset", dataset, "--out", args.out, "--image-size", size, "--layers", layers]
    common += ["--precision", args.precision]
    stage = [sys.executable, "-m", "pipeline"]
    features = [*stage, "features", *common, "--weights", args.weights]
    subprocess.run(features, cwd=HOME, check=True, stdout=subprocess.DEVNULL)
    done = subprocess.run(
        [*stage, "train", *common, "--head", "logistic"],
        cwd=HOME,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return load(Path(done.stdout.strip()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--official", type=Path, required=True, help="folder of train/<class>/*.png, test/..."
    )
    parser.add_argument("--jpeg", type=Path, required=True, help="folder of train/<class>/*.jpg, test/...")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("out/pixels"))
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--setting", action="append", help="IMAGE_SIZE:LAYERS")
    args = parser.parse_args()
    args.out, args.weights = args.out.resolve(), args.weights.resolve()
    copies = args.out / "same-as-jpeg"
    if not copies.is_dir():
        lay_out(args.official.resolve(), args.jpeg.resolve(), copies)
    print("| px | layers | official | JPEG | official - JPEG, points | right in one alone | McNemar p |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for setting in args.setting or SETTINGS:
        runs = [trained(folder, setting, args) for folder in (args.official.resolve(), copies)]
        (found,) = compare({"official": is_right(runs[0]), "jpeg": is_right(runs[1])})
        cells = []
        for run in runs:
            right = int(is_right(run).sum())
            low, high = wilson(right, len(run.test_labels))
            cells.append(f"{accuracy(run):.3f} ({low:.3f}–{high:.3f})")
        size, layers = setting.split(":")
        print(
            f"| {size} | {layers.replace(',', ' + ')} | {' | '.join(cells)} | {100 * found.difference:+.1f} "
            f"({100 * found.low:+.1f} to {100 * found.high:+.1f}) | {found.first_only} / {found.second_only} "
            f"| {found.p:.2g} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
