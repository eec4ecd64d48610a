"""Speed and memory of heads compared with scikit-learn and Keras; rounds are interleaved, medians reported.

    .venv/bin/python benchmarks/heads.py --embeddings out/embeddings/FILE.h5
    .venv/bin/python benchmarks/heads.py --embeddings FILE.h5 --memory       # each head's peak memory
    .venv/bin/python benchmarks/heads.py --embeddings FILE.h5 --rows 3000 --only ridge,knn --layers block5

``--layers`` may be repeated; by default a narrow setting (d = 512) and the default layers (d = 2,816) are
measured. Runs longer than 30 s are done once, others three times. Heads are fitted on train without
validation, and accuracies are on validation. ``--rows`` is for development: its ratios are meaningless, as
are those on a busy machine (the load at the start is printed). Prints a table, then JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from features.backend import tensorflow
from features.cache.embeddings import Embeddings
from features.environment import processor, versions
from features.progress import say
from models.heads.dense import DenseHead
from models.heads.knn import QUERIES, KnnHead
from models.heads.moments import RidgeHead
from models.heads.registry import HEADS
from models.selection import PATIENCE
from models.trainsplit import TrainSplit

HOME = Path(__file__).resolve().parents[1]
ROUNDS = 3
LONG = 30.0  # seconds; what takes longer runs once
SETTINGS = ("block5", "block3,block4@2,block5")
NARROW = 512  # columns, up to which knn runs and dense has 256 hidden units
NEIGHBOURS = 100
SUBSET = 1_000  # queries that scikit-learn's search is timed on
STEPS = 32  # a call, where Keras is told to take many
EPOCHS = 3  # of the dense head; the first, in which both sides trace their graph, is not counted


class Bench:
    """Measurements and results.

    Attributes
    ----------
    material : the train split of the current setting.
    rounds : the measurements of all rounds, by name.
    table : one entry per ratio: ``what``, ``value``, ``bar`` and whether it is ``met``.
    notes : further results, by setting and row.
    """

    def __init__(self, embeddings: Embeddings, rows: int | None) -> None:
        self.embeddings, self.rows = embeddings, rows
        self.rounds: dict[str, list[float]] = {}
        self.table: list[dict[str, Any]] = []
        self.notes: dict[str, Any] = {}

    def load(self, layers: str) -> None:
        """Load the rows of these layers; with ``rows``, only so many to fit."""
        self.layers = layers
        self.material = TrainSplit(self.embeddings, layers.split(","))
        fit = len(self.material.X_fit)
        if self.rows is not None and self.rows < fit:
            chosen = np.linspace(0, fit - 1, self.rows).astype(int)  # of every class, if they are sorted
            self.material.X_fit, self.material.y_fit = (
                self.material.X_fit[chosen],
                self.material.y_fit[chosen],
            )
        self.width = self.material.X_fit.shape[1]

    def race(self, what: str, runs: dict[str, Callable[[], float]]) -> dict[str, float]:
        """Medians of the values returned by the runs, which alternate in each round."""
        seen: dict[str, list[float]] = {name: [] for name in runs}
        long: set[str] = set()
        for number in range(ROUNDS):
            for name, run in runs.items():
                if name in long:
                    continue
                started = time.perf_counter()
                seen[name].append(run())
                if time.perf_counter() - started > LONG:
                    long.add(name)
                say(f"round {number + 1}: {what}, d = {self.width}: {name} {seen[name][-1]:,.3f}")
        for name, values in seen.items():
            self.rounds[f"{what}, d = {self.width}: {name}"] = values
        return {name: statistics.median(values) for name, values in seen.items()}

    def row(self, what: str, value: Any, most: float | None = None, least: float | None = None) -> None:
        """A line of the table; without a bar it is for information."""
        bar, met = "", None
        if most is not None:
            bar, met = f"<= {most:g}", bool(value <= most)
        if least is not None:
            bar, met = f">= {least:g}", bool(value >= least)
        value = float(f"{value:.4g}") if isinstance(value, float) else value
        self.table.append({"what": f"{what}, d = {self.width}", "value": value, "bar": bar, "met": met})

    def note(self, what: str, **found: Any) -> None:
        self.notes[f"{what}, d = {self.width}"] = found

    def accuracy(self, predicted: Any) -> float:
        return float((predicted == self.material.y_val).mean())


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def logistic(bench: Bench) -> None:
    """The sweep as in ``models.selection``, compared with one scikit-learn fit at the chosen C."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    material, grid = bench.material, HEADS["logistic"].grid["C"]
    tried: list[dict[str, float]] = []
    early: list[float] = []

    def sweep() -> None:
        tried.clear()
        estimator = HEADS["logistic"].make(0)
        started = time.perf_counter()
        for chosen, proba in estimator.sweep(
            material.X_fit, material.y_fit, (material.X_val, material.y_val), {"C": grid}
        ):
            accuracy = bench.accuracy(proba.argmax(axis=1))
            took = time.perf_counter() - started
            tried.append({**chosen, "accuracy": accuracy, "iterations": estimator.n_iter_, "seconds": took})
            started = time.perf_counter()
        early.append(sum(row["seconds"] for row in tried[: stop()]))

    def stop() -> int:
        """The number of values that selection would try."""
        accuracies = [row["accuracy"] for row in tried]
        for count in range(PATIENCE + 1, len(tried)):
            if max(accuracies[count - PATIENCE : count]) < max(accuracies[:count]):
                return count
        return len(tried)

    peer: Any = None

    def single() -> None:
        nonlocal peer
        chosen = max(tried[: stop()], key=lambda row: row["accuracy"])["C"]
        peer = make_pipeline(StandardScaler(), LogisticRegression(C=chosen, max_iter=1000))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # its iterations are noted below
            peer.fit(material.X_fit, material.y_fit)

    took = bench.race(
        "logistic",
        {"sweep (s)": partial(seconds, sweep), "scikit-learn, one fit (s)": partial(seconds, single)},
    )
    bench.rounds[f"logistic, d = {bench.width}: sweep, stopped early (s)"] = early
    ours = max(row["accuracy"] for row in tried[: stop()])
    theirs = bench.accuracy(peer.predict(material.X_val))
    one = took["scikit-learn, one fit (s)"]
    bench.row(f"logistic: {len(grid)} values / one scikit-learn fit", took["sweep (s)"] / one, most=3)
    bench.row(
        f"logistic: stopped early, {stop()} values / one scikit-learn fit", statistics.median(early) / one
    )
    bench.row("logistic: difference in accuracy, points", round(100 * abs(ours - theirs), 2), most=0.2)
    bench.note(
        "logistic",
        chosen=peer[-1].C,
        accuracy=ours,
        scikit_learn_accuracy=theirs,
        scikit_learn_iterations=int(peer[-1].n_iter_.max()),
        sweep=[{name: round(value, 4) for name, value in row.items()} for row in tried],
    )


def ridge(bench: Bench) -> None:
    """The complete grid compared with one value, and Cholesky solves with one eigendecomposition."""
    from scipy.linalg import eigh
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    material, grid = bench.material, HEADS["ridge"].grid
    accuracies: dict[float, float] = {}
    ours, peer = RidgeHead(), None

    def best() -> float:
        return max(accuracies, key=lambda alpha: accuracies[alpha])

    def sweep() -> None:
        for chosen, proba in RidgeHead().sweep(
            material.X_fit, material.y_fit, (material.X_val, material.y_val), grid
        ):
            accuracies[chosen["alpha"]] = bench.accuracy(proba.argmax(axis=1))

    def single() -> None:
        ours.set_params(alpha=best()).fit(material.X_fit, material.y_fit).predict_proba(material.X_val)

    def scikit_learn() -> None:
        nonlocal peer
        peer = make_pipeline(StandardScaler(), RidgeClassifier(alpha=best()))
        peer.fit(material.X_fit, material.y_fit).predict(material.X_val)

    other = RidgeHead()
    moments = other._moments(*other._checked(material.X_fit, material.y_fit))

    def cholesky() -> None:
        for alpha in grid["alpha"]:
            other.set_params(alpha=alpha)._solve(moments)

    def eigen() -> None:
        eigh(moments.gram._held, lower=False, check_finite=False)

    runs = {
        "sweep (s)": sweep,
        "one value (s)": single,
        "scikit-learn, one value (s)": scikit_learn,
        "a Cholesky solve for every value (s)": cholesky,
        "one eigendecomposition (s)": eigen,
    }
    took = bench.race("ridge", {name: partial(seconds, run) for name, run in runs.items()})
    count = len(grid["alpha"])
    bench.row(f"ridge: {count} values / one value", took["sweep (s)"] / took["one value (s)"], most=1.5)
    bench.row(
        f"ridge: {count} values / one scikit-learn fit",
        took["sweep (s)"] / took["scikit-learn, one value (s)"],
    )
    bench.row(
        f"ridge: one eigendecomposition / {count} Cholesky solves",
        took["one eigendecomposition (s)"] / took["a Cholesky solve for every value (s)"],
    )
    assert peer is not None
    bench.note(
        "ridge",
        chosen=best(),
        accuracy=accuracies[best()],
        scikit_learn_accuracy=bench.accuracy(peer.predict(material.X_val)),
    )


def knn(bench: Bench) -> None:
    """The search for neighbours of all test images, compared with the matrix product alone."""
    from scipy.linalg.blas import sgemm
    from sklearn.neighbors import NearestNeighbors

    if bench.width > NARROW:
        say(f"knn: not at d = {bench.width:,}, only up to {NARROW}")
        return
    material = bench.material
    test = bench.embeddings.matrix("test", material.layers)
    head = KnnHead().fit(material.X_fit, material.y_fit)
    rows, queries = (X / np.linalg.norm(X, axis=1, keepdims=True) for X in (material.X_fit, test))
    few = test[:SUBSET]
    peer = NearestNeighbors(n_neighbors=NEIGHBOURS, metric="cosine", algorithm="brute").fit(material.X_fit)
    found: dict[str, Any] = {}

    def search() -> None:
        found["ours"] = head.neighbours(test, NEIGHBOURS)

    def product() -> None:
        for start in range(0, len(queries), QUERIES):
            sgemm(1, rows.T, queries[start : start + QUERIES].T, trans_a=True)

    def scikit_learn() -> float:
        took = seconds(lambda: found.update(peer=peer.kneighbors(few)))
        return took * len(test) / len(few)

    scaled = f"scikit-learn, {len(few):,} queries, scaled to {len(test):,} (s)"
    took = bench.race(
        "knn",
        {
            "search (s)": partial(seconds, search),
            "bare product (s)": partial(seconds, product),
            scaled: scikit_learn,
        },
    )
    bench.row("knn: search / bare product", took["search (s)"] / took["bare product (s)"], most=2)
    bench.row("knn: search / scikit-learn's, scaled", took["search (s)"] / took[scaled])
    similarities, names = (part[: len(few)] for part in found["ours"])
    distances, others = found["peer"]
    shared = [len(np.intersect1d(*pair)) for pair in zip(names, others, strict=True)]
    bench.note(
        "knn",
        queries=len(test),
        rows=len(rows),
        k=NEIGHBOURS,
        largest_difference_in_similarity=float(np.abs(1 - distances - similarities).max()),
        share_of_neighbours_in_common=float(np.mean(shared)) / similarities.shape[1],
    )


class TimedDense(DenseHead):
    """Records when each epoch ends."""

    def _trainer(self, X: Any, codes: Any, epochs: int) -> Callable[[Any], None]:
        run, self.ends = super()._trainer(X, codes, epochs), list[float]()

        def epoch(order: Any) -> None:
            run(order)
            self.ends.append(time.perf_counter())

        return epoch


def plain_keras(head: DenseHead, X: Any, y: Any, steps_per_call: int = 1) -> tuple[Any, list[float]]:
    """The network of ``head`` in plain Keras, trained with ``fit``, and the times at which epochs ended.

    ``steps_per_call`` : Keras' own ``steps_per_execution``.
    """
    import keras

    classes = int(y.max()) + 1
    layers = [
        keras.Input((X.shape[1],)),
        keras.layers.Normalization(mean=X.mean(axis=0), variance=np.maximum(X.var(axis=0), 1e-12)),
        keras.layers.Dropout(head.automatic(len(X))["input_dropout"]),
    ]
    for units in head.hidden:
        layers += [
            keras.layers.Dense(units, kernel_initializer="he_normal"),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.Activation(head.activation),
            keras.layers.Dropout(head.dropout),
        ]
    network = keras.Sequential([*layers, keras.layers.Dense(classes)])
    steps = -(-len(X) // head.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(head.learning_rate, steps * head.epochs)
    network.compile(
        keras.optimizers.AdamW(rate, weight_decay=head.weight_decay),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=head.label_smoothing),
        steps_per_execution=steps_per_call,
    )
    ends: list[float] = []
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter()))
    truth = np.eye(classes, dtype=np.float32)[y]
    network.fit(
        X, truth, batch_size=head.batch_size, epochs=head.epochs, callbacks=[clock], shuffle=True, verbose=0
    )
    return network, ends


def dense(bench: Bench) -> None:
    """Samples per second after the first epoch, compared with Keras' ``fit`` of the same network."""
    tensorflow()
    import keras

    material = bench.material
    hidden = (256,) if bench.width <= NARROW else DenseHead().hidden
    accuracies: dict[str, list[float]] = {"ours": [], "keras": [], "keras, many steps": []}

    def ours() -> float:
        head = TimedDense(epochs=EPOCHS, random_state=len(accuracies["ours"]), hidden=hidden)
        head.fit(material.X_fit, material.y_fit)
        took = time.perf_counter() - head.ends[0]
        accuracies["ours"].append(bench.accuracy(head.predict(material.X_val)))
        size = min(head.batch_size, len(material.X_fit))
        return (EPOCHS - 1) * (len(material.X_fit) // size * size) / took  # the rest of an epoch is left out

    def theirs(name: str = "keras", steps_per_call: int = 1) -> float:
        keras.utils.set_random_seed(len(accuracies[name]))
        plain = DenseHead(epochs=EPOCHS, hidden=hidden)
        network, ends = plain_keras(plain, material.X_fit, material.y_fit, steps_per_call)
        took = time.perf_counter() - ends[0]
        predicted = network.predict(material.X_val, batch_size=1_000, verbose=0).argmax(axis=1)
        accuracies[name].append(bench.accuracy(predicted))
        return (EPOCHS - 1) * len(material.X_fit) / took

    rates = bench.race(
        "dense",
        {
            "ours (samples/s)": ours,
            "Keras' fit (samples/s)": theirs,
            "Keras' fit, many steps a call (samples/s)": partial(theirs, "keras, many steps", STEPS),
        },
    )
    bench.row(
        f"dense {hidden}: samples/s, ours / Keras' fit with steps_per_execution={STEPS}",
        rates["ours (samples/s)"] / rates["Keras' fit, many steps a call (samples/s)"],
        least=1,
    )
    bench.row(
        f"dense {hidden}: samples/s, ours / Keras' fit",
        rates["ours (samples/s)"] / rates["Keras' fit (samples/s)"],
        least=2 if bench.width <= NARROW else 0.95,
    )
    bench.note("dense", hidden=hidden, epochs=EPOCHS, accuracies=accuracies)


# The peak is VmHWM of the child itself: what wait4 tells of it (ru_maxrss) begins with the memory of
# the process that started it. The small fit loads all that the head imports only when it needs it.
CHILD = """
import sys, tempfile, time
started = time.perf_counter()
import json, numpy as np
from pathlib import Path
from features.cache.embeddings import Embeddings
from models.heads.registry import HEADS
from models.runs.saving import save
from models.selection import train
from models.trainsplit import TrainSplit

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))

path, layers, head, rows, small = sys.argv[1:]
imported = time.perf_counter()
if small == "small":
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((300, 8), dtype=np.float32), np.arange(300) % 10
    HEADS[head].make(0).fit(X, y).predict_proba(X)
libraries = memory("VmRSS")
before = time.perf_counter()
material = TrainSplit(Embeddings(Path(path)), layers.split(","))
loading = time.perf_counter() - before
loaded, load_peak, size = memory("VmRSS"), memory("VmHWM"), material.X.nbytes
fit = len(material.X_fit)
if int(rows) and int(rows) < fit:
    kept = np.r_[np.linspace(0, fit - 1, int(rows)).astype(int), fit : len(material.X)]
    material.X, material.y = material.X[kept], material.y[kept]
    material.X_fit, material.y_fit = material.X[: int(rows)], material.y[: int(rows)]
    material.X_val, material.y_val = material.X[int(rows) :], material.y[int(rows) :]
before = time.perf_counter()
with tempfile.TemporaryDirectory() as folder:
    save(train(material, head, 0), Path(folder))
print(json.dumps({
    "embeddings": size, "libraries": libraries, "loaded": loaded, "load_peak": load_peak,
    "peak": memory("VmHWM"),
    "import_seconds": imported - started, "load_seconds": loading,
    "train_seconds": time.perf_counter() - before, "tensorflow": "tensorflow" in sys.modules,
}))
"""


def child(bench: Bench, layers: str, head: str, small: bool) -> dict[str, Any]:
    """Load, train with ``models.selection.train`` and save, in a separate process; its measurements."""
    command = [sys.executable, "-c", CHILD, str(bench.embeddings.path.resolve()), layers, head]
    command += [str(bench.rows or 0), "small" if small else "plain"]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=HOME)
    wall = time.perf_counter() - started
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise SystemExit(f"error: training {head} in a process of its own failed")
    return {**json.loads(done.stdout.splitlines()[-1]), "wall_seconds": wall}


def process(bench: Bench) -> None:
    """Seconds of a process that trains ridge, and whether it imports TensorFlow."""
    seen: dict[str, Any] = {}

    def run() -> float:
        seen.update(child(bench, bench.layers, "ridge", small=False))
        return float(seen["wall_seconds"])

    bench.race("ridge, whole process", {"from start to end (s)": run})
    bench.row("process: modules of TensorFlow that ridge loads", int(seen["tensorflow"]), most=0)
    bench.note("process", **{name: round(seen[name], 2) for name in seen if name.endswith("_seconds")})


def memory(bench: Bench, layers: str, heads: list[str]) -> None:
    """Peak memory of training each head beyond the libraries, relative to the size of the train split."""
    for head in heads:
        seen = child(bench, layers, head, small=True)
        bench.width = seen["embeddings"] // (4 * bench.embeddings.rows["train"])
        size, libraries = seen["embeddings"], seen["libraries"]
        numbers = {name: round(seen[name] / 2**20) for name in seen if isinstance(seen[name], int)}
        numbers.pop("tensorflow")
        bench.row(f"memory: {head}, peak / n d 4 bytes", (seen["peak"] - libraries) / size)
        bench.note(
            f"memory, {head}, MiB",
            **numbers,
            loaded_ratio=round((seen["loaded"] - libraries) / size, 3),
            load_peak_ratio=round((seen["load_peak"] - libraries) / size, 3),
            seconds=round(seen["train_seconds"], 1),
        )
        say(f"{head}: {json.dumps(numbers)}, {seen['wall_seconds']:.0f} s")


ROWS: dict[str, Callable[[Bench], None]] = {
    "logistic": logistic,
    "ridge": ridge,
    "knn": knn,
    "process": process,
    "dense": dense,  # last: once TensorFlow is there, its threads are too
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--embeddings", type=Path, required=True, help="a cache, .h5")
    parser.add_argument("--layers", action="append", help="may be given several times")
    parser.add_argument("--rows", type=int, help="only so many fitting rows, for development")
    parser.add_argument("--only", help=f"of {', '.join(ROWS)}; with --memory, of the heads")
    parser.add_argument("--memory", action="store_true", help="the memory of each head, and nothing else")
    arguments = parser.parse_args()
    embeddings = Embeddings(arguments.embeddings)
    settings = arguments.layers or list(SETTINGS)
    for layers in settings:
        if missing := set(layers.split(",")) - set(embeddings.layers):
            parser.error(
                f"no {', '.join(sorted(missing))} in the cache: it has {', '.join(embeddings.layers)}"
            )
    known = list(HEADS if arguments.memory else ROWS)
    only = arguments.only.split(",") if arguments.only else known
    if unknown := set(only) - set(known):
        parser.error(f"--only {', '.join(sorted(unknown))}: expected some of {', '.join(known)}")
    load, bench = os.getloadavg()[0], Bench(embeddings, arguments.rows)
    say(f"load at the start: {load:.2f}")
    if arguments.memory:
        for layers in settings:
            memory(bench, layers, [name for name in known if name in only])
    for name in known if not arguments.memory else ():
        for layers in settings if name in only else ():
            bench.load(layers)
            ROWS[name](bench)
    medians = {name: round(statistics.median(values), 3) for name, values in bench.rounds.items()}
    print(*(f"{name:<80} {value:>12,}" for name, value in medians.items()), "", sep="\n")
    for row in bench.table:
        met = {True: "met", False: "NOT MET", None: ""}[row["met"]]
        print(f"{row['what']:<80} {row['value']:>12,} {row['bar']:>8} {met}".rstrip())
    results = {
        "embeddings": embeddings.path.name,
        "layers": settings,
        "development_rows": arguments.rows,
        "medians": medians,
        "rounds": {name: [round(value, 4) for value in values] for name, values in bench.rounds.items()},
        "table": bench.table,
        "notes": bench.notes,
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "load_at_start": round(load, 2),
            "python": platform.python_version(),
            "versions": versions(),
        },
    }
    print()
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
