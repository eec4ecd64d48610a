"""Coverage of the report's intervals, and false-positive rate and power of its tests, by simulation.

    .venv/bin/python benchmarks/coverage.py
    .venv/bin/python benchmarks/coverage.py --draws 500 --only wilson,pairs

Test sets are drawn from populations with known accuracy, F1 and calibration error, and evaluated by the
functions of ``reports/statistics`` that the report uses. 10,000 draws take about half an hour on one core;
intervals of the calibration error on 10,000 images get a tenth of the draws. Prints tables in Markdown; with
10,000 draws the standard error of a coverage of 0.95 is 0.002.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))
from features.progress import progress
from reports.evaluation import newcombe
from reports.statistics.calibration import BINS, calibration
from reports.statistics.metrics import by_class, interval, ratio, resampled, scores, wilson
from reports.statistics.paired import ALPHA, bootstrap_difference, detectable, holm, mcnemar

Ends = NDArray[np.float64]  # (draws, 2)
FEWER = 10  # factor by which draws with many images are reduced


def of_counts(function: Callable[..., tuple[float, float]], *counts: NDArray[np.int64], what: str) -> Ends:
    """The interval for each draw, computed once per distinct counts."""
    unique, place = np.unique(np.stack(counts, axis=1), axis=0, return_inverse=True)
    with progress(len(unique), what, "interval") as bar:
        ends = []
        for row in unique.tolist():
            ends.append(function(*row))
            bar.update()
    return np.array(ends)[place.ravel()]


def line(name: str, setting: str, truth: float, ends: Ends) -> None:
    """Print a row of the table of intervals."""
    low, high = ends[:, 0], ends[:, 1]
    rounding = 1e-12  # tolerance for equal proportions
    above, below = (truth > high + rounding).mean(), (truth < low - rounding).mean()
    held, width = 1 - above - below, (high - low).mean()
    print(
        f"| {name} | {setting} | {truth:.4f} | {len(ends):,} | {held:.3f} | {below:.3f} | {above:.3f} "
        f"| {width:.4f} |",
        flush=True,
    )


def wilson_intervals(draws: int, rng: np.random.Generator) -> None:
    for images in (100, 1_000, 10_000):
        for accuracy in (0.5, 0.8, 0.95, 0.99):
            right = rng.binomial(images, accuracy, draws)
            ends = of_counts(lambda count, total=images: wilson(count, total), right, what="wilson")
            line("accuracy (Wilson)", f"{images:,} images", accuracy, ends)


def pair_intervals(draws: int, rng: np.random.Generator) -> None:
    for images, rate, difference in (
        *((100, 0.10, 0.0), (100, 0.10, 0.04)),
        *((1_000, 0.10, 0.0), (1_000, 0.10, 0.02), (1_000, 0.02, 0.01)),
        *((10_000, 0.10, 0.0), (10_000, 0.10, 0.02), (10_000, 0.01, 0.005)),
    ):
        shares = [(rate + difference) / 2, (rate - difference) / 2, 1 - rate]
        one, other, _ = rng.multinomial(images, shares, draws).T
        ends = of_counts(
            lambda *only, total=images: bootstrap_difference(*only, total), one, other, what="pairs"
        )
        line("pair (bootstrap)", f"{images:,} images, {rate:.0%} discordant", difference, ends)


def independent_intervals(draws: int, rng: np.random.Generator) -> None:
    for first, first_of, second, second_of in ((0.8, 1_000, 0.7, 200), (0.95, 10_000, 0.9, 1_000)):
        here, there = rng.binomial(first_of, first, draws), rng.binomial(second_of, second, draws)
        ends = of_counts(
            lambda one, other, sizes=(first_of, second_of): newcombe(one, sizes[0], other, sizes[1]),
            here,
            there,
            what="newcombe",
        )
        setting = f"{first_of:,} and {second_of:,} images"
        line("difference of two samples (Newcombe)", setting, first - second, ends)


def population(recall: Sequence[float], rng: np.random.Generator) -> NDArray[np.float64]:
    """Random prediction probabilities by true class, (k, k), with the given recall."""
    classes = len(recall)
    says = np.zeros((classes, classes))
    for label, right in enumerate(recall):
        others = np.arange(classes) != label
        says[label, others] = (1 - right) * rng.dirichlet(np.ones(classes - 1))
        says[label, label] = right
    return says


def averages(confusion: NDArray[np.int64]) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """The intervals of macro F1 and balanced accuracy, as computed by ``scores``."""
    hits, guesses = resampled(confusion)
    sizes = confusion.sum(axis=1)
    f1, recall = ratio(2 * hits, guesses + sizes), ratio(hits, sizes)
    return interval(f1.mean(axis=1)), interval(recall.mean(axis=1))


def check_averages(confusion: NDArray[np.int64]) -> None:
    """Check that :func:`averages` equals ``scores``, which is several times as slow."""
    rows, columns = np.indices(confusion.shape)
    labels = np.repeat(rows.ravel(), confusion.ravel())
    says = np.repeat(columns.ravel(), confusion.ravel())
    names = tuple(map(str, range(len(confusion))))
    found = scores(labels, np.eye(len(confusion))[says], names)
    for name, ends in zip(("macro_f1", "balanced_accuracy"), averages(confusion), strict=True):
        assert (found[name]["low"], found[name]["high"]) == ends, name


def average_intervals(draws: int, rng: np.random.Generator) -> None:
    ten = np.linspace(0.65, 0.95, 10)
    for setting, sizes, recall in (
        ("2 classes of 50 images", [50] * 2, [0.8, 0.9]),
        ("10 classes of 100 images", [100] * 10, ten),
        ("10 classes of 1,000 images", [1_000] * 10, ten),
        ("10 classes of 10 to 300 images", np.geomspace(10, 300, 10).round().astype(int), ten),
        ("10 classes of 100 images, recall 0.99", [100] * 10, [0.99] * 10),
    ):
        says, sizes = population(recall, rng), np.array(sizes)
        right, guesses = sizes * np.diag(says), sizes @ says
        f1 = 2 * right / (guesses + sizes)
        drawn = np.stack([rng.multinomial(n, row, draws) for n, row in zip(sizes, says, strict=True)], axis=1)
        check_averages(drawn[0])
        with progress(draws, setting, "draw") as bar:
            found = []
            for confusion in drawn:
                found.append(averages(confusion))
                bar.update()
        both = np.array(found)  # (draws, 2, 2)
        line("macro F1 (bootstrap)", setting, float(f1.mean()), both[:, 0])
        line("balanced accuracy (bootstrap)", setting, float(np.mean(recall)), both[:, 1])
        said = {"precision": "precision", "recall": "recall", "f1": "F1"}
        truths = {"precision": right / guesses, "recall": np.array(recall), "f1": f1}
        for label, which in ((0, "first"), (len(sizes) - 1, "last")):
            counts = drawn[:, label, label], drawn[:, :, label].sum(axis=1), drawn[:, label].sum(axis=1)
            for metric, truth in truths.items():
                ends = of_counts(lambda *n, of=metric: by_class(*n)[of], *counts, what=metric)
                line(
                    f"{said[metric]} of a class (Wilson)",
                    f"{setting}: the {which}",
                    float(truth[label]),
                    ends,
                )


def calibration_intervals(draws: int, rng: np.random.Generator) -> None:
    edges = np.linspace(0.6, 1, BINS + 1)  # confidence is uniform, so bins of equal size have equal width
    middle = (edges[:-1] + edges[1:]) / 2
    for setting, images, correct in (
        ("calibrated", 200, lambda confidence: confidence),
        ("calibrated", 1_000, lambda confidence: confidence),
        ("calibrated", 10_000, lambda confidence: confidence),
        ("too sure by 0.05", 1_000, lambda confidence: confidence - 0.05),
        ("too sure by 0.05", 10_000, lambda confidence: confidence - 0.05),
        ("too sure above 0.8, too unsure below", 1_000, lambda confidence: 0.8 + 0.7 * (confidence - 0.8)),
        ("too sure above 0.8, too unsure below", 10_000, lambda confidence: 0.8 + 0.7 * (confidence - 0.8)),
    ):
        truth = float(np.abs(correct(middle) - middle).mean())  # each is linear within a bin
        ends = []
        fewer = draws // FEWER if images >= 10_000 else draws
        with progress(fewer, f"ece, {images:,} images", "draw") as bar:
            for _ in range(fewer):
                confidence = rng.uniform(0.6, 1, images)
                labels = (rng.random(images) >= correct(confidence)).astype(np.int64)
                found = calibration(labels, np.stack([confidence, 1 - confidence], axis=1))["ece"]
                ends.append((found["low"], found["high"]))
                bar.update()
        line("ECE (bootstrap)", f"{images:,} images, {setting}", truth, np.array(ends))


def false_alarms(draws: int, rng: np.random.Generator) -> None:
    """How often any pair of equally good heads is declared distinguishable, with and without correction."""
    from scipy.stats import norm

    p_of = cache(lambda fewer, more: mcnemar(fewer, more))
    print("\n| heads | test images | agreement | any false alarm, corrected | any, uncorrected |")
    print("| --- | --- | --- | --- | --- |")
    for heads, images, shared, better in (
        *((2, 1_000, 0.8, 0.0), (12, 1_000, 0.0, 0.0), (12, 1_000, 0.8, 0.0), (12, 1_000, 0.95, 0.0)),
        *((12, 10_000, 0.8, 0.0), (12, 10_000, 0.8, 0.04)),
    ):
        accuracy = np.where(np.arange(heads) < heads // 2, 0.8, 0.8 + better)
        pairs = np.array(list(combinations(range(heads), 2)))
        equal = accuracy[pairs[:, 0]] == accuracy[pairs[:, 1]]
        corrected = uncorrected = 0
        agreement = 0.0
        with progress(draws, f"{heads} heads, {images:,} images", "draw") as bar:
            for _ in range(draws):
                ease = np.sqrt(shared) * rng.standard_normal((images, 1), dtype=np.float32)
                luck = np.sqrt(1 - shared) * rng.standard_normal((images, heads), dtype=np.float32)
                right = (ease + luck < norm.ppf(accuracy)).astype(np.float32)
                both = (right.T @ right).astype(np.int64)
                only = np.diag(both)[:, None] - both
                one, other = only[tuple(pairs.T)], only.T[tuple(pairs.T)]
                p = [p_of(*sorted(counts)) for counts in zip(one.tolist(), other.tolist(), strict=True)]
                corrected += bool((np.array(holm(p))[equal] < ALPHA).any())
                uncorrected += bool((np.array(p)[equal] < ALPHA).any())
                agreement += 1 - (one + other).mean() / images
                bar.update()
        who = f"{heads}" if not better else f"{heads}, half of them {better:.0%} better"
        print(
            f"| {who} | {images:,} | {agreement / draws:.2f} | {corrected / draws:.4f} "
            f"| {uncorrected / draws:.4f} |",
            flush=True,
        )


def power(draws: int, rng: np.random.Generator) -> None:
    """How often a detectable difference, as defined by the report, is found."""
    p_of = cache(mcnemar)
    print("\n| pairs tested together | test images | discordant | detectable difference | found |")
    print("| --- | --- | --- | --- | --- |")
    for tests, images, rate in ((1, 1_000, 0.1), (1, 10_000, 0.1), (66, 1_000, 0.1), (66, 10_000, 0.1)):
        difference = detectable(round(rate * images), images, tests)
        shares = [(rate + difference) / 2, (rate - difference) / 2, 1 - rate]
        counts = rng.multinomial(images, shares, draws)[:, :2].tolist()
        found = np.mean([p_of(*only) < ALPHA / tests for only in counts])
        print(f"| {tests} | {images:,} | {rate:.0%} | {difference:.4f} | {found:.3f} |", flush=True)


KINDS: dict[str, Callable[[int, np.random.Generator], None]] = {
    "wilson": wilson_intervals,
    "newcombe": independent_intervals,
    "pairs": pair_intervals,
    "averages": average_intervals,
    "ece": calibration_intervals,
    "alarms": false_alarms,
    "power": power,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=10_000, help="test sets per population")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(KINDS), help=f"some of {', '.join(KINDS)}")
    given = parser.parse_args()
    names = given.only.split(",")
    if unknown := [name for name in names if name not in KINDS]:
        parser.error(f"--only {unknown[0]}: expected some of {', '.join(KINDS)}")
    if set(names) - {"alarms", "power"}:
        print("| interval | test set | truth | draws | held | truth below | truth above | mean width |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in names:
        KINDS[name](given.draws, np.random.default_rng([given.seed, list(KINDS).index(name)]))


if __name__ == "__main__":
    main()
