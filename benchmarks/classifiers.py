"""scikit-learn's classifiers beside Headroom's heads, on the same embeddings: accuracy, seconds, memory.

    .venv/bin/python benchmarks/classifiers.py --embeddings out/embeddings/FILE.h5
    .venv/bin/python benchmarks/classifiers.py --embeddings FILE.h5 --only LogisticRegression,logistic
    .venv/bin/python benchmarks/classifiers.py --embeddings FILE.h5 --rows 10000 --only SVC

Each head is trained as ``make train`` does, in a process of its own: chosen on the validation split, fitted
again on all of train, one prediction of the test split. What takes longer than ``--hours`` is stopped and
tried again on ``--fallback`` training images, and its line says so. Seconds are of the processor (user and
system, all threads): a busy machine changes them least. Memory is the peak of resident memory above that of
the imports and the train split. Prints a table line by line, then JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from features.backbones.registry import BACKBONES, DEFAULT
from features.cache.embeddings import Embeddings
from features.environment import processor, versions
from models.heads.parameters import parse
from models.selection import train
from models.trainsplit import TrainSplit

HEADS = (  # a name, and what SET= says
    ("prior", ""),
    ("centroid", ""),
    ("knn", ""),
    ("lda", ""),
    ("ridge", ""),
    ("svm", ""),
    ("logistic", ""),
    ("dense", ""),
    ("KNeighborsClassifier", ""),
    ("LinearDiscriminantAnalysis", ""),
    ("RidgeClassifier", ""),
    ("SGDClassifier", "scale=standard"),
    ("LogisticRegression", ""),
    ("LogisticRegression", "scale=standard"),
    ("LogisticRegression", "scale=standard,C=0.003"),
    ("ExtraTreesClassifier", ""),
    ("RandomForestClassifier", ""),
    ("MLPClassifier", "scale=standard"),
    ("LinearSVC", "scale=standard"),
    ("LinearSVC", ""),
    ("HistGradientBoostingClassifier", ""),
)


class Peak(threading.Thread):
    """The largest resident memory while it runs, fifty times a second; ``bytes`` above the start."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process()
        self._start, self.bytes, self._done = self._process.memory_info().rss, 0, threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.02):
            self.bytes = max(self.bytes, self._process.memory_info().rss - self._start)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()

    def __enter__(self) -> Peak:
        self.start()
        return self


def fewer(material: TrainSplit, rows: int) -> None:
    """Leave so many of the rows that are fitted on, drawn at random (seed 0), beside the validation rows."""
    drawn = np.sort(np.random.default_rng(0).permutation(len(material.X_fit))[:rows])
    material.X = np.concatenate([material.X_fit[drawn], material.X_val])
    material.y = np.concatenate([material.y_fit[drawn], material.y_val])
    material.X_fit, material.y_fit = material.X[: len(drawn)], material.y[: len(drawn)]
    material.X_val, material.y_val = material.X[len(drawn) :], material.y[len(drawn) :]


def measure(path: Path, layers: str, name: str, settings: str, rows: int | None) -> dict[str, Any]:
    """One head, in this process."""
    material = TrainSplit(Embeddings(path), layers.split(","))
    if rows is not None:
        fewer(material, rows)
    import sklearn.ensemble  # noqa: F401  (imports are not what is measured)

    started = time.process_time()
    with Peak() as peak:
        run = train(material, name, 0, parse(settings))
    ours, others = time.process_time() - started, psutil.Process().cpu_times()
    return {
        "head": name,
        "settings": settings,
        "train_rows": run.train_rows,
        "validation": run.val_accuracy,
        "test": float((run.test_proba.argmax(axis=1) == run.test_labels).mean()),
        "seconds": ours + others.children_user + others.children_system,
        "gigabytes": peak.bytes / 1e9,
        "notes": run.warnings,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--embeddings", type=Path, required=True)
    parser.add_argument("--layers", default=BACKBONES[DEFAULT].layers)
    parser.add_argument("--only", help="names of heads, with commas")
    parser.add_argument("--rows", type=int, help="so many training images instead of all")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--fallback", type=int, default=10_000)
    parser.add_argument("--one", nargs=2, metavar=("HEAD", "SET"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.embeddings, given.layers, *given.one, given.rows)))
        return
    chosen = given.only.split(",") if given.only else None
    found = []
    print(f"{processor()}, scikit-learn {versions()['scikit-learn']}, {given.layers}")
    print(f"{'head':48} {'images':>7} {'validation':>10} {'test':>7} {'CPU s':>8} {'peak GB':>8}")
    for name, settings in HEADS:
        if chosen is None or name in chosen:
            for rows in (given.rows, given.fallback):
                command = [
                    sys.executable,
                    __file__,
                    "--embeddings",
                    str(given.embeddings),
                    "--layers",
                    given.layers,
                ]
                command += ["--one", name, settings] + (["--rows", str(rows)] if rows else [])
                try:
                    out = subprocess.run(command, capture_output=True, text=True, timeout=given.hours * 3600)
                except subprocess.TimeoutExpired:
                    print(f"{name} {settings}: more than {given.hours:g} h", flush=True)
                    continue
                if out.returncode != 0:
                    print(f"{name} {settings}: {out.stderr.strip().splitlines()[-1]}", flush=True)
                    break
                row = json.loads(out.stdout.splitlines()[-1])
                found.append(row)
                print(
                    f"{name + ' ' + settings:48} {row['train_rows']:7,} {row['validation']:10.4f} "
                    f"{row['test']:7.4f} {row['seconds']:8.1f} {row['gigabytes']:8.2f}",
                    flush=True,
                )
                break
    print(json.dumps({"processor": processor(), "versions": versions(), "rows": found}, indent=1))


if __name__ == "__main__":
    main()
