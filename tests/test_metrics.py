"""Every number agrees with an independent source."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from reports.metrics import bootstrap_macro_f1, diagnosis, macro_f1, scores, wilson


@pytest.mark.parametrize(("correct", "total"), [(0, 10), (7, 10), (10, 10), (8190, 10_000)])
def test_wilson_is_the_closed_form(correct: int, total: int) -> None:
    z, p, n = 1.959963984540054, correct / total, total
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    assert wilson(correct, total) == pytest.approx((max(0, centre - half), min(1, centre + half)), abs=1e-9)


def test_macro_f1_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        y, guess = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
        confusion = confusion_matrix(y, guess, labels=range(5))  # class 4 occurs nowhere
        expected = f1_score(y, guess, labels=range(5), average="macro", zero_division=0)
        assert macro_f1(confusion) == pytest.approx(expected)


def test_drawing_cells_is_drawing_images() -> None:
    """The multinomial shortcut agrees with a plain stratified bootstrap over images."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 400)
    guess = np.where(rng.random(400) < 0.7, y, rng.integers(0, 3, 400))
    low, high = bootstrap_macro_f1(confusion_matrix(y, guess))
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
    target = float(macro_f1(truth * 1e9))
    covered = []
    for trial in range(300):
        sample = rng.multinomial(500, truth.ravel() / truth.sum()).reshape(3, 3)
        low, high = bootstrap_macro_f1(sample, seed=trial)
        covered.append(low <= target <= high)
    assert 0.91 <= np.mean(covered) <= 0.985


def test_small_classes_do_not_vanish_from_the_interval() -> None:
    assert bootstrap_macro_f1(np.eye(100, dtype=np.int64)) == (1.0, 1.0)
    assert bootstrap_macro_f1(np.diag([3, 3, 0])) == pytest.approx((2 / 3, 2 / 3)), "a class without images"


def test_scores_are_scikit_learns() -> None:
    rng = np.random.default_rng(3)
    y = rng.integers(0, 3, 200)
    proba = rng.dirichlet(np.ones(3), 200) + np.eye(3)[y] * 0.4
    found = scores(y, proba, ("a", "b", "c"))
    guess = proba.argmax(1)
    assert found["accuracy"]["value"] == accuracy_score(y, guess)
    assert found["accuracy"]["low"] < found["accuracy"]["value"] < found["accuracy"]["high"]
    assert found["macro_f1"]["low"] < found["macro_f1"]["value"] < found["macro_f1"]["high"]
    assert found["macro_f1"]["value"] == pytest.approx(f1_score(y, guess, average="macro"))
    assert np.array_equal(found["confusion"], confusion_matrix(y, guess))
    assert [row["class"] for row in found["per_class"]] == ["a", "b", "c"]
    assert sum(row["support"] for row in found["per_class"]) == 200
    assert "precision" in found["text"]


class TestDiagnosis:
    @staticmethod
    def verdict(
        training: list[float],
        validation: list[float],
        reached: float = 0.0,
        classes: int = 10,
        kept: int | None = None,
    ) -> tuple[str, str]:
        loss = [1 - value for value in validation]
        history = {"accuracy": training, "val_accuracy": validation, "loss": loss, "val_loss": loss}
        found = diagnosis(history, kept or int(np.argmax(validation)) + 1, reached, classes)
        assert found is not None
        return found["verdict"], found["sentence"]

    def test_a_gap_is_overfitting(self) -> None:
        verdict, sentence = self.verdict([0.8, 0.9, 0.99, 0.995, 1.0], [0.7, 0.81, 0.80, 0.80, 0.79])
        assert verdict == "overfit"
        assert "epoch (2 of 5) accuracy is 0.900 on training and 0.810" in sentence

    def test_still_rising_at_the_end_is_underfitting(self) -> None:
        verdict, sentence = self.verdict([0.50, 0.55, 0.60, 0.65, 0.70], [0.50, 0.55, 0.60, 0.64, 0.69])
        assert verdict == "underfit"
        assert "still rose by 0.050" in sentence

    def test_less_than_another_head_takes_from_the_same_vectors_is_underfitting(self) -> None:
        curve = [0.50, 0.52, 0.53, 0.53, 0.53]
        verdict, sentence = self.verdict(curve, curve, reached=0.60)
        assert verdict == "underfit"
        assert "another head reaches 0.600" in sentence

    def test_guessing_is_underfitting(self) -> None:
        verdict, sentence = self.verdict([0.1] * 5, [0.1] * 5)
        assert verdict == "underfit"
        assert "hardly learned anything" in sentence

    def test_two_classes_are_no_guessing_at_98_percent(self) -> None:
        verdict, _ = self.verdict([0.97, 0.98, 0.98, 0.98, 0.98], [0.96, 0.97, 0.97, 0.97, 0.97], classes=2)
        assert verdict == "neither"

    def test_another_head_must_do_clearly_better(self) -> None:
        verdict, _ = self.verdict(
            [0.58, 0.60, 0.60, 0.60, 0.60], [0.57, 0.58, 0.58, 0.58, 0.58], reached=0.61
        )
        assert verdict == "neither"

    def test_it_speaks_of_the_epoch_that_was_kept(self) -> None:
        _, sentence = self.verdict([0.50, 0.51, 0.52], [0.50, 0.53, 0.51], kept=3)
        assert "kept epoch (3 of 3) accuracy is 0.520 on training and 0.510 on validation" in sentence

    def test_agreement_is_neither(self) -> None:
        verdict, _ = self.verdict([0.78, 0.81, 0.82, 0.82, 0.82], [0.78, 0.80, 0.80, 0.80, 0.80])
        assert verdict == "neither"

    def test_no_curves_no_verdict(self) -> None:
        assert diagnosis({}, 0, 0.5, 10) is None
