"""Temperature scaling, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from models.temperature import fit_temperature, scaled, softmax, temperature_of


@pytest.mark.parametrize("truth", [0.3, 1.0, 4.0])
def test_the_temperature_that_made_the_labels_is_found(truth: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (20_000, 4))
    proba = softmax(logits / truth)
    labels = (proba.cumsum(axis=1) > rng.random((20_000, 1))).argmax(axis=1)
    assert fit_temperature(logits, labels) == pytest.approx(truth, rel=0.05)


def test_two_classes_in_closed_form() -> None:
    """Logit 1 for the first class, right in 300 of 400, and one more that is half of each."""
    logits, labels = np.tile([1.0, 0.0], (400, 1)), np.arange(400) % 4 // 3
    target = (300 + 0.5) / 401
    assert fit_temperature(logits, labels) == pytest.approx(1 / np.log(target / (1 - target)), rel=1e-4)


def test_scores_that_are_all_right_do_not_become_certainties() -> None:
    logits = np.tile([2.0, 0.0, 0.0], (100, 1))
    sure = softmax(logits / fit_temperature(logits, np.zeros(100, int))).max()
    assert sure == pytest.approx((100 + 1 / 3) / 101, rel=1e-3)


def test_many_classes_and_few_images_leave_good_scores_as_they_are() -> None:
    """100 classes, one validation image each, calibrated scores: the temperature is near 1."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, (100, 100))
    logits[np.arange(100), np.arange(100)] += 9
    proba = softmax(logits)
    labels = (proba.cumsum(axis=1) > rng.random((100, 1))).argmax(axis=1)
    assert fit_temperature(logits, labels) == pytest.approx(1, abs=0.25)


def test_scaling_keeps_the_order_and_one_changes_nothing() -> None:
    proba = np.random.default_rng(0).dirichlet(np.ones(5), 100)
    np.testing.assert_allclose(scaled(proba, 1.0), proba, atol=1e-12)
    assert np.array_equal(scaled(proba, 3.0).argsort(axis=1), proba.argsort(axis=1))
    assert scaled(proba, 3.0).max() < proba.max()


def test_probabilities_and_logits_say_the_same() -> None:
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(0, 2, (500, 3)), rng.integers(0, 3, 500)
    assert temperature_of(softmax(logits), labels) == pytest.approx(fit_temperature(logits, labels), rel=1e-3)
