"""Calibration agrees with hand-worked examples, with scikit-learn and with simulations."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss, log_loss

from reports.statistics.calibration import BINS, calibration, coverage, ece_interval
from reports.statistics.metrics import wilson

Arrays = tuple[NDArray[np.int64], NDArray[np.float64]]


def two_classes(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> Arrays:
    """Labels and probabilities of two classes with these confidences (0.5 or more)."""
    return 1 - correct.astype(np.int64), np.stack([confidence, 1 - confidence], axis=1)


def simulated(images: int, seed: int, excess: float = 0.0) -> Arrays:
    """Confidence is too high by ``excess``."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.6, 1, images)
    return two_classes(confidence, rng.random(images) < confidence - excess)


def by_sklearn(labels: NDArray[np.int64], proba: NDArray[np.float64]) -> tuple[float, float]:
    classes = range(proba.shape[1])
    brier = brier_score_loss(labels, proba, labels=classes, scale_by_half=False)
    return float(brier), float(log_loss(labels, proba, labels=classes))


def test_ece_by_hand() -> None:
    confidence = np.array([0.6, 0.7, 0.8, 0.9, 0.9, 1.0])
    correct = np.array([True, False, True, True, False, True])
    found = calibration(*two_classes(confidence, correct), bins=3)
    # (.6, .7): 1 of 2 at .65; (.8): 1 of 1; (.9, .9, 1.): 2 of 3 at 2.8 / 3, for the two of .9 have
    # ranks 4 and 5 and the middle of them is in the last third
    assert [row["count"] for row in found["bins"]] == [2, 1, 3]
    assert [row["confidence"] for row in found["bins"]] == pytest.approx([0.65, 0.8, 2.8 / 3])
    assert [row["accuracy"] for row in found["bins"]] == pytest.approx([0.5, 1, 2 / 3])
    assert found["ece"]["value"] == pytest.approx((2 * 0.15 + 1 * 0.2 + 3 * 0.8 / 3) / 6)
    assert [(row["low"], row["high"]) for row in found["bins"]] == [wilson(1, 2), wilson(1, 1), wilson(2, 3)]


def test_bins_hold_equally_many_images() -> None:
    found = calibration(*simulated(1000, 0))
    counts = [row["count"] for row in found["bins"]]
    assert len(counts) == BINS
    assert sum(counts) == 1000
    assert set(counts) <= {66, 67}
    confidence = [row["confidence"] for row in found["bins"]]
    assert confidence == sorted(confidence)


def test_ece_is_the_textbook_loop() -> None:
    labels, proba = simulated(999, 1, excess=0.1)
    order = np.argsort(proba.max(axis=1))
    expected = 0.0
    for rows in np.array_split(order, 9):
        accuracy = (proba[rows].argmax(axis=1) == labels[rows]).mean()
        expected += len(rows) / 999 * abs(accuracy - proba[rows].max(axis=1).mean())
    assert calibration(labels, proba, bins=9)["ece"]["value"] == pytest.approx(expected)


def test_brier_and_log_loss_are_scikit_learns() -> None:
    rng = np.random.default_rng(2)
    labels, proba = rng.integers(0, 5, 300), rng.dirichlet(np.ones(5) / 2, 300)
    found = calibration(labels, proba)
    assert (found["brier"], found["log_loss"]) == pytest.approx(by_sklearn(labels, proba))


def test_the_worst_and_the_best() -> None:
    labels = np.array([0, 1, 2] * 10)
    best, worst = (calibration(labels, np.eye(3)[guess]) for guess in (labels, (labels + 1) % 3))
    assert [str(best[score]) for score in ("brier", "log_loss")] == ["0.0", "0.0"], "and not -0.0"
    assert best["ece"] == {"value": 0, "low": 0, "high": 0}
    assert (worst["brier"], worst["log_loss"]) == pytest.approx((2, -np.log(1e-12)))
    assert worst["ece"] == {"value": 1, "low": 1, "high": 1}
    assert len(worst["bins"]) == 1, "all are equally confident"
    json.dumps([best, worst])


def test_a_calibrated_head_has_no_error_to_speak_of() -> None:
    ece = calibration(*simulated(20_000, 3))["ece"]
    assert ece["value"] < 0.015
    assert ece["low"] == 0
    assert ece["value"] <= ece["high"] < 0.025


def test_an_overconfident_head_is_told() -> None:
    ece = calibration(*simulated(20_000, 4, excess=0.1))["ece"]
    assert ece["value"] == pytest.approx(0.1, abs=0.01)
    assert 0.07 < ece["low"] < 0.1 < ece["high"] < 0.12


@pytest.mark.parametrize("kind", ["calibrated", "everywhere", "one bin"])
def test_the_interval_covers_at_least_as_often_as_it_says(kind: str) -> None:
    rng = np.random.default_rng(5)
    place = np.arange(600) * BINS // 600
    confidence = np.sort(rng.uniform(0.6, 1, 600))
    wrong = {"calibrated": np.zeros(BINS), "everywhere": np.full(BINS, 0.1), "one bin": np.eye(BINS)[4] / 4}
    excess = wrong[kind][place]
    covered = []
    for trial in range(100):
        correct = rng.random(600) < confidence - excess
        low, high = ece_interval(correct - confidence, place, seed=trial)
        covered.append(low <= excess.mean() <= high)
    assert np.mean(covered) >= 0.93


def test_one_confidence_for_all_is_a_difference_of_two_proportions() -> None:
    """The floor: then the error is |accuracy - confidence|, and what is above it is a normal's."""
    labels, proba = two_classes(np.full(400, 0.6), np.arange(400) < 240)
    ece = calibration(labels, proba)["ece"]
    assert (ece["value"], ece["low"]) == pytest.approx((0, 0), abs=1e-12)
    assert ece["high"] == pytest.approx(1.96 * np.sqrt(0.6 * 0.4 / 400), rel=0.15)


@pytest.mark.parametrize("steps", [5, 1000])
def test_the_order_of_rows_does_not_matter(steps: int) -> None:
    """Also with ties, between images that are right and wrong."""
    rng = np.random.default_rng(6)
    confidence = 0.5 + rng.integers(0, steps, 500) / steps / 2
    labels, proba = two_classes(confidence, rng.random(500) < confidence)
    shuffled = rng.permutation(500)
    one, other = calibration(labels, proba), calibration(labels[shuffled], proba[shuffled])
    assert (one["ece"], one["bins"]) == (other["ece"], other["bins"])
    assert (one["brier"], one["log_loss"]) == pytest.approx((other["brier"], other["log_loss"]))
    assert coverage(labels, proba) == coverage(labels[shuffled], proba[shuffled])


def test_draws_in_pieces_are_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, proba = simulated(300, 7)
    whole = calibration(labels, proba)
    monkeypatch.setattr("reports.statistics.calibration.CHUNK", 1000)
    assert calibration(labels, proba) == whole


def test_ten_thousand_images_take_a_moment() -> None:
    labels, proba = simulated(10_000, 8)
    calibration(labels, proba)
    start = time.process_time()
    calibration(labels, proba)
    assert time.process_time() - start < 1


class TestCoverage:
    def test_by_hand(self) -> None:
        confidence = np.array([0.6, 0.9, 0.7, 0.8])
        correct = np.array([False, True, True, False])
        assert coverage(*two_classes(confidence, correct)) == [
            {"coverage": 0.25, "accuracy": 1.0},
            {"coverage": 0.5, "accuracy": 0.5},
            {"coverage": 0.75, "accuracy": pytest.approx(2 / 3)},
            {"coverage": 1.0, "accuracy": 0.5},
        ]

    def test_ties_count_with_their_mean(self) -> None:
        points = coverage(*two_classes(np.array([0.9, 0.8, 0.8, 0.8]), np.array([True, True, False, False])))
        assert [point["accuracy"] for point in points] == pytest.approx(
            [1, (1 + 1 / 3) / 2, (1 + 2 / 3) / 3, 0.5]
        )

    def test_all_is_the_accuracy_and_less_is_better(self) -> None:
        labels, proba = simulated(5000, 9)
        points = coverage(labels, proba)
        assert [point["coverage"] for point in points] == pytest.approx(np.arange(1, 51) / 50)
        assert points[-1]["accuracy"] == pytest.approx((proba.argmax(axis=1) == labels).mean())
        half = np.argsort(-proba.max(axis=1))[:2500]
        expected = (proba[half].argmax(axis=1) == labels[half]).mean()
        assert points[24]["accuracy"] == pytest.approx(expected)
        assert points[0]["accuracy"] > points[-1]["accuracy"]
