"""Accuracy, time and memory of scikit-learn's classifiers and Headroom's heads on the same embeddings.

    .venv/bin/python benchmarks/classifiers.py --embeddings out/embeddings/FILE.h5
    .venv/bin/python benchmarks/classifiers.py --embeddings FILE.h5 --only LogisticRegression,logistic
    .venv/bin/python benchmarks/classifiers.py --embeddings FILE.h5 --rows 10000 --only SVC
    .venv/bin/python benchmarks/classifiers.py --memory   # memory of a fit of each class, on synthetic rows

Each head is trained as by ``make train``, in its own process: model selection on the validation split, refit
on the complete train split, one prediction of the test split. A head that takes longer than ``--hours`` is
stopped and trained on ``--fallback`` images instead. Seconds are CPU time (user and system, all threads),
which depends least on other processes. Memory is the peak of resident memory beyond imports and train split.
Prints a table line by line, then JSON.

``--memory`` needs no embeddings. Each of scikit-learn's classifiers is fitted on random float32 rows in
``CLASSES`` classes (seed 0), of ``--rows`` x ``--width`` and with each halved, in its own process (on Linux:
``VmHWM`` is reset before the fit, after a small fit that triggers late imports). Peaks beyond the rows are
printed as copies of the float32 rows and, by non-negative least squares over the four sizes, as ``a`` float64
values per value, ``b`` per pair of rows and ``c`` per pair of columns, which ``models/heads/estimator.py``
uses. Child processes of ``n_jobs`` are not counted.
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
from models.heads.registry import LEFT_OUT, head
from models.selection import train
from models.trainsplit import TrainSplit
from reports.statistics.ranking import accuracy

HEADS = (  # name and SET=
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
CLASSES = 10  # of the synthetic rows
SMALL = (300, 8)  # rows and columns of the fit that triggers late imports


class Peak(threading.Thread):
    """Samples resident memory fifty times a second; ``bytes`` is the peak above that at the start."""

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
    """Reduce the rows to fit to a random sample (seed 0) and keep the validation rows."""
    drawn = np.sort(np.random.default_rng(0).permutation(len(material.X_fit))[:rows])
    material.X = np.concatenate([material.X_fit[drawn], material.X_val])
    material.y = np.concatenate([material.y_fit[drawn], material.y_val])
    material.X_fit, material.y_fit = material.X[: len(drawn)], material.y[: len(drawn)]
    material.X_val, material.y_val = material.X[len(drawn) :], material.y[len(drawn) :]


def measure(path: Path, layers: str, name: str, settings: str, rows: int | None) -> dict[str, Any]:
    """Train one head in this process and measure it."""
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
        "test": accuracy(run),
        "seconds": ours + others.children_user + others.children_system,
        "gigabytes": peak.bytes / 1e9,
        "notes": run.warnings,
    }


def made_up(rows: int, width: int) -> tuple[Any, Any]:
    """Random non-negative rows, like embeddings, and their classes."""
    rng, y = np.random.default_rng(0), np.arange(rows) % CLASSES
    X = rng.random((rows, width), dtype=np.float32)
    X += rng.random((CLASSES, width), dtype=np.float32)[y]
    return X, y


def fit_peak(name: str, rows: int, width: int) -> int:
    """The growth of resident memory in bytes while a classifier is fitted in this process."""

    def resident(kind: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:"))

    head(name).make(0).fit(*made_up(*SMALL))
    X, y = made_up(rows, width)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM: proc(5)
    before = resident("VmRSS")
    head(name).make(0).fit(X, y)
    return resident("VmHWM") - before


def memory(only: list[str] | None, rows: int, width: int, hours: float) -> None:
    """Print the memory of a fit of each of scikit-learn's classifiers."""
    from scipy.optimize import nnls
    from sklearn.utils import all_estimators

    sizes = [(r, w) for r in (rows, rows // 2) for w in (width, width // 2)]
    terms = np.array([[8 * r * w, 8 * r * r, 8 * w * w, 1] for r, w in sizes], float)
    used = f"scikit-learn {versions()['scikit-learn']}"
    print(f"{rows:,} x {width:,} values and both halved, {CLASSES} classes, {used}")
    print(f"{'class':32} {'copies':>7} {'a':>6} {'b':>6} {'c':>6}   MB at each size")
    for name in (name for name, _ in all_estimators("classifier") if name not in LEFT_OUT):
        if only is not None and name not in only:
            continue
        grown = []
        for size in sizes:
            command = [sys.executable, __file__, "--fit", name, *map(str, size)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=3600 * hours)
            except subprocess.TimeoutExpired:
                print(f"{name:32} more than {hours:g} h at {size[0]:,} x {size[1]:,}", flush=True)
                break
            if done.returncode:
                print(f"{name:32} {done.stderr.strip().splitlines()[-1]}", flush=True)
                break
            grown.append(int(done.stdout))
        else:
            a, b, c, _ = nnls(terms / terms.max(0), np.array(grown))[0] / terms.max(0)
            shown = "  ".join(f"{size / 1e6:,.0f}" for size in grown)
            copies = grown[0] / (4 * rows * width)
            print(f"{name:32} {copies:7.2f} {a:6.2f} {b:6.2f} {c:6.2f}   {shown}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--embeddings", type=Path, help="a cache; needed without --memory")
    parser.add_argument("--layers", default=BACKBONES[DEFAULT].layers)
    parser.add_argument("--only", help="names of heads, with commas")
    parser.add_argument("--rows", type=int, help="number of training images instead of all")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--fallback", type=int, default=10_000)
    parser.add_argument("--memory", action="store_true", help="memory of scikit-learn's classifiers")
    parser.add_argument("--width", type=int, default=1_000, help="values per synthetic row; --rows is 4,000")
    parser.add_argument("--fit", nargs=3, metavar=("CLASS", "ROWS", "WIDTH"), help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=2, metavar=("HEAD", "SET"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    chosen = given.only.split(",") if given.only else None
    if given.fit:
        print(fit_peak(given.fit[0], int(given.fit[1]), int(given.fit[2])))
        return
    if given.memory:
        memory(chosen, given.rows or 4_000, given.width, given.hours)
        return
    if given.embeddings is None:
        parser.error("--embeddings is needed without --memory")
    if given.one:
        print(json.dumps(measure(given.embeddings, given.layers, *given.one, given.rows)))
        return
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
