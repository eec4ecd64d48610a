"""Time and memory of the report: first run, with stored neighbours, and unchanged.

    .venv/bin/python benchmarks/report.py --out out
    .venv/bin/python benchmarks/report.py --classes 1000 --images 50000

With ``--out`` it uses a copy of ``OUT`` with hard links to the embeddings, so that neighbours and map are
computed again. With ``--classes`` it makes runs with random probabilities (seeded) for that many classes,
without images or embeddings. Prints a table, then JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from features.environment import processor
from features.progress import say
from models.heads.registry import head
from models.runs.run import Run
from models.runs.saving import save
from models.temperature import softmax

BARS = {"seconds": 20.0, "peak_rss_mb": 1500.0}  # of ten heads on 10,000 test images, neighbours kept
BARS_MANY = {"seconds": 120.0, "page_mb": 10.0}  # of 1,000 classes and 50,000 test images
ALIKE = 10  # classes that resemble each other
HEADS = {"logistic": 5.2, "ridge": 4.9, "knn": 4.4, "dense": 5.3}  # mean logit of the true class
BLOCK = 5_000  # images whose probabilities are drawn at a time


def measured(out: Path) -> dict[str, float]:
    """Run ``report`` in a separate process and measure it."""
    started = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "report", "--out", str(out)], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"error: the report failed with status {status}")
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_rss_mb": round(usage.ru_maxrss / 1024, 1),
    }


def of_runs(source: Path) -> dict[str, Any]:
    """Measure the report of the runs in ``source``."""
    with tempfile.TemporaryDirectory(dir=source) as scratch:
        copy = Path(scratch)
        for name in ("runs", "curves"):
            if (source / name).is_dir():
                shutil.copytree(source / name, copy / name, ignore=shutil.ignore_patterns("head.npz"))
        (copy / "embeddings").mkdir()
        for path in (source / "embeddings").glob("*.h5"):
            os.link(path, copy / "embeddings" / path.name)
        results = {"first": measured(copy)}
        shutil.rmtree(copy / "report")
        results["neighbours and map kept"] = measured(copy)
        results["nothing new"] = measured(copy)
    kept = results["neighbours and map kept"]
    runs = sum(folder.is_dir() for folder in (source / "runs").iterdir())
    return results | {"runs": runs, "met": {name: kept[name] <= bar for name, bar in BARS.items()}}


def of_classes(classes: int, images: int) -> dict[str, Any]:
    """Measure the report of synthetic runs with that many classes and test images."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        (out / "runs").mkdir()
        for seed, name in enumerate(HEADS):
            save(drawn(name, classes, images, seed), out / "runs")
        results: dict[str, Any] = {"first": measured(out), "nothing new": measured(out)}
        files = {
            path.name: path.stat().st_size / 1e6 for path in (out / "report").iterdir() if path.is_file()
        }
    first = results["first"] | {"page_mb": files["index.html"]}
    return results | {
        "runs": len(HEADS),
        "megabytes": {name: round(size, 2) for name, size in sorted(files.items())},
        "met": {name: first[name] <= bar for name, bar in BARS_MANY.items()},
    }


def drawn(name: str, classes: int, images: int, seed: int) -> Run:
    """A run with random probabilities; images differ in difficulty, and similar classes are confused."""
    held_out = max(classes, images // 10)
    labels = np.arange(images) % classes
    validated = np.arange(held_out) % classes
    history = {
        "accuracy": [0.5, 0.7, 0.8],
        "val_accuracy": [0.5, 0.6, 0.65],
        "loss": [2.5, 1.5, 1.0],
        "val_loss": [2.5, 2.0, 1.9],
    }
    epochs = name == "dense"
    return Run(
        head=name,
        seed=seed if epochs else 0,
        layers=("block5",),
        width=512,
        dataset={"name": "synthetic", "source": "/synthetic", "digest": "d", "note": "", "limit": None},
        class_names=tuple(f"kind {code // ALIKE:03d}, variety {code % ALIKE}" for code in range(classes)),
        spec={
            "backbone": "vgg16",
            "weights": "imagenet",
            "weights_sha256": "0" * 64,
            "image_size": 32,
            "preprocess": "imagenet",
            "precision": "float32",
            "mirror": False,
        },
        fingerprint="f" * 64,
        test_digest="d" * 64,
        chosen={},
        sweep=[{"accuracy": 0.65, "loss": 1.9, "train_accuracy": 0.8}],
        history=history if epochs else {},
        kept_epoch=3 if epochs else None,
        seconds={"select": 100.0, "refit": 50.0, "predict": 5.0},
        train_rows=10 * images,
        val_rows=np.arange(held_out),
        val_labels=validated,
        val_proba=probabilities(validated, classes, HEADS[name], seed + 1000),
        test_labels=labels,
        test_proba=probabilities(labels, classes, HEADS[name], seed),
        **head(name).configuration(0, 10 * images),
    )


def probabilities(labels: Any, classes: int, reach: float, seed: int) -> Any:
    """Random probabilities (n, k) for true classes (n,)."""
    images = np.random.default_rng(0)  # the same difficulty for all heads
    heads = np.random.default_rng(seed + 1)
    result = np.empty((len(labels), classes))
    for start in range(0, len(labels), BLOCK):
        part = labels[start : start + BLOCK]
        rows = np.arange(len(part))
        logits = heads.standard_normal((len(part), classes))
        alike = part[:, None] // ALIKE * ALIKE + np.arange(ALIKE)
        logits[rows[:, None], np.minimum(alike, classes - 1)] += 1.5
        logits[rows, part] += images.normal(reach - 1.5, 1.5, len(part))
        result[start : start + BLOCK] = softmax(1.5 * logits)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument(
        "--classes", type=int, help="of runs that are made for this; of --out where not given"
    )
    parser.add_argument("--images", type=int, default=50_000, help="test images of those runs")
    asked = parser.parse_args()
    results = of_classes(asked.classes, asked.images) if asked.classes else of_runs(asked.out)
    for name, found in results.items():
        if isinstance(found, dict) and "cpu_seconds" in found:
            say(
                f"{name:<26} {found['seconds']:>8.2f} s {found['cpu_seconds']:>8.2f} s of processors "
                f"{found['peak_rss_mb']:>8.0f} MB"
            )
    machine = {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()}
    print(json.dumps(results | {"machine": machine}, indent=1))


if __name__ == "__main__":
    main()
