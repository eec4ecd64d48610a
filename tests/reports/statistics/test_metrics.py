"""Every number agrees with an independent source."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
)

from reports.statistics.metrics import (
    DRAWS,
    by_class,
    interval,
    ratio,
    resampled,
    scores,
    wilson,
)

pytestmark = pytest.mark.slow

METRICS = ("precision", "recall", "f1")


def macro_f1_interval(confusion: NDArray[np.int64], seed: int = 0) -> tuple[float, float]:
    hits, predicted = resampled(confusion, seed)
    return interval(ratio(2 * hits, predicted + confusion.sum(axis=1)).mean(axis=1))


@pytest.mark.parametrize(("correct", "total"), [(0, 10), (7, 10), (10, 10), (8190, 10_000)])
def test_wilson_is_the_closed_form(correct: int, total: int) -> None:
    z, p, n = 1.959963984540054, correct / total, total
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    assert wilson(correct, total) == pytest.approx((max(0, centre - half), min(1, centre + half)), abs=1e-9)


def test_drawing_cells_is_drawing_images() -> None:
    """The multinomial shortcut agrees with a plain stratified bootstrap over images."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 400)
    guess = np.where(rng.random(400) < 0.7, y, rng.integers(0, 3, 400))
    low, high = macro_f1_interval(confusion_matrix(y, guess))
    values = []
    for _ in range(2000):
        rows = np.concatenate(
            [rng.choice(np.flatnonzero(y == label), (y == label).sum()) for label in range(3)]
        )
        values.append(f1_score(y[rows], guess[rows], average="macro"))
    assert (low, high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.006)


def test_the_bootstrap_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    truth = np.array([[0.25, 0.05, 0.03], [0.06, 0.24, 0.04], [0.02, 0.05, 0.26]])
    target = (2 * truth.diagonal() / (truth.sum(axis=0) + truth.sum(axis=1))).mean()
    covered = []
    for trial in range(300):
        sample = rng.multinomial(500, truth.ravel() / truth.sum()).reshape(3, 3)
        low, high = macro_f1_interval(sample, seed=trial)
        covered.append(low <= target <= high)
    assert 0.91 <= np.mean(covered) <= 0.985


def test_small_classes_do_not_vanish_from_the_interval() -> None:
    assert macro_f1_interval(np.eye(100, dtype=np.int64)) == (1.0, 1.0)
    assert macro_f1_interval(np.diag([3, 3, 0])) == pytest.approx((2 / 3, 2 / 3)), "a class without images"


def test_a_class_that_occurs_nowhere_counts_as_in_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        y, guess = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
        found = scores(y, np.eye(5)[guess], tuple("abcde"))
        macro = f1_score(y, guess, labels=range(5), average="macro", zero_division=0)
        assert found["macro_f1"]["value"] == pytest.approx(macro)
        assert found["balanced_accuracy"]["value"] == pytest.approx(balanced_accuracy_score(y, guess))


def test_the_interval_of_balanced_accuracy_is_that_of_drawing_images() -> None:
    rng = np.random.default_rng(4)
    y = np.repeat([0, 1, 2], [200, 120, 80])
    guess = np.where(rng.random(400) < 0.7, y, rng.integers(0, 3, 400))
    found = scores(y, np.eye(3)[guess], ("a", "b", "c"))
    balanced = []
    for _ in range(1000):
        rows = np.concatenate(
            [rng.choice(np.flatnonzero(y == label), (y == label).sum()) for label in range(3)]
        )
        balanced.append(balanced_accuracy_score(y[rows], guess[rows]))
    ends = found["balanced_accuracy"]["low"], found["balanced_accuracy"]["high"]
    assert ends == pytest.approx(np.quantile(balanced, [0.025, 0.975]), abs=0.008)


def test_the_intervals_of_a_class_are_wilsons() -> None:
    found = scores(
        np.repeat([0, 1], [100, 50]), np.eye(2)[np.repeat([0, 1, 0, 1], [70, 30, 10, 40])], ("a", "b")
    )
    first, _ = found["per_class"]
    low, high = wilson(70, 100 + 80 - 70)  # of the images that are of the class, or were predicted as it
    assert (first["precision_low"], first["precision_high"]) == wilson(70, 80)
    assert (first["recall_low"], first["recall_high"]) == wilson(70, 100)
    assert (first["f1_low"], first["f1_high"]) == pytest.approx((2 * low / (1 + low), 2 * high / (1 + high)))


@pytest.mark.parametrize(("recall", "others"), [(0.99, 0.001), (0.9, 0.01), (0.6, 0.05)])
def test_the_intervals_of_a_class_cover_as_often_as_they_say(recall: float, others: float) -> None:
    """Of 100 images of a class and 900 others, of which so many are taken for it."""
    rng = np.random.default_rng(6)
    hits, false = 100 * recall, 900 * others
    truth = {"precision": hits / (hits + false), "recall": recall, "f1": 2 * hits / (100 + hits + false)}
    covered = dict.fromkeys(METRICS, 0)
    for right, wrong in zip(rng.binomial(100, recall, 400), rng.binomial(900, others, 400), strict=True):
        for metric, (low, high) in by_class(int(right), int(right + wrong), 100).items():
            covered[metric] += low <= truth[metric] <= high
    assert all(0.90 <= count / 400 <= 0.995 for count in covered.values()), covered


def test_the_recall_of_a_class_is_a_drawn_binomial() -> None:
    confusion = np.array([[70, 30], [10, 40]])
    hits, predicted = resampled(confusion)
    assert hits.shape == predicted.shape == (DRAWS, 2)
    assert (predicted.sum(axis=1) == 150).all()
    assert np.quantile(hits[:, 0], [0.025, 0.975]) == pytest.approx(
        binom.ppf([0.025, 0.975], 100, 0.7), abs=1.01
    )
    assert np.corrcoef(hits.T)[0, 1] == pytest.approx(0, abs=0.1), "classes are drawn independently"


def test_classes_that_are_never_seen_or_never_predicted() -> None:
    found = scores(np.array([0, 0, 1, 1]), np.eye(4)[[0, 0, 0, 2]], ("a", "b", "c", "d"))
    rows = found["per_class"]
    assert [row["support"] for row in rows] == [2, 2, 0, 0]
    assert (rows[1]["precision_low"], rows[1]["precision_high"]) == (0, 0), "never predicted"
    assert (rows[2]["recall_low"], rows[2]["recall_high"]) == (0, 0), "does not occur"
    assert all(rows[3][f"{metric}{end}"] == 0 for metric in METRICS for end in ("", "_low", "_high"))
    assert found["balanced_accuracy"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    json.dumps(found)


def test_a_class_of_one_image_counts_as_any_other() -> None:
    found = scores(np.array([0, 0, 0, 0, 1]), np.eye(2)[[0, 0, 0, 0, 1]], ("often", "once"))
    assert found["macro_f1"] == found["balanced_accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    missed = scores(np.array([0, 0, 0, 0, 1]), np.eye(2)[[0, 0, 0, 0, 0]], ("often", "once"))
    assert missed["balanced_accuracy"] == {"value": 0.5, "low": 0.5, "high": 0.5}


def test_the_text_is_scikit_learns_with_every_class_on_a_line_of_its_own() -> None:
    found = scores(np.array([0, 0, 1, 1]), np.eye(3)[[0, 0, 0, 1]], ("wild\n cat", "dog", "never seen"))
    lines = [" ".join(line.split()) for line in found["text"].splitlines()]
    assert [line for line in lines if line] == [
        "precision recall f1-score support",
        "wild cat 0.667 1.000 0.800 2",
        "dog 1.000 0.500 0.667 2",
        "never seen 0.000 0.000 0.000 0",
        "accuracy 0.750 4",
        "macro avg 0.556 0.500 0.489 4",
        "weighted avg 0.833 0.750 0.733 4",
    ]


def test_a_thousand_classes_take_little_memory() -> None:
    rng = np.random.default_rng(5)
    y = np.repeat(np.arange(1000), 5)
    guess = np.where(rng.random(5000) < 0.5, y, rng.integers(0, 1000, 5000))
    confusion = confusion_matrix(y, guess)
    tracemalloc.start()
    resampled(confusion)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64e6


def test_scores_are_scikit_learns() -> None:
    rng = np.random.default_rng(3)
    y = rng.integers(0, 3, 200)
    proba = rng.dirichlet(np.ones(3), 200) + np.eye(3)[y] * 0.4
    found = scores(y, proba, ("a", "b", "c"))
    guess = proba.argmax(1)
    assert found["accuracy"]["value"] == accuracy_score(y, guess)
    assert found["macro_f1"]["value"] == pytest.approx(f1_score(y, guess, average="macro"))
    assert found["balanced_accuracy"]["value"] == pytest.approx(balanced_accuracy_score(y, guess))
    for metric in ("accuracy", "macro_f1", "balanced_accuracy"):
        assert found[metric]["low"] < found[metric]["value"] < found[metric]["high"]
    ends = found["macro_f1"]["low"], found["macro_f1"]["high"]
    assert ends == macro_f1_interval(confusion_matrix(y, guess)), "one set of draws for all"
    assert np.array_equal(found["confusion"], confusion_matrix(y, guess))
    expected = precision_recall_fscore_support(y, guess)
    for row, *values in zip(found["per_class"], *expected[:3], strict=True):
        assert [row[metric] for metric in METRICS] == pytest.approx(values)
        for metric in METRICS:
            assert row[f"{metric}_low"] < row[metric] < row[f"{metric}_high"]
    assert [row["class"] for row in found["per_class"]] == ["a", "b", "c"]
    assert [row["support"] for row in found["per_class"]] == expected[3].tolist()
    assert "precision" in found["text"]
