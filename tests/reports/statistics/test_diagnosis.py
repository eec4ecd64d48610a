"""Over- or underfitting is told from the numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from reports.statistics.diagnosis import diagnosis


class TestWithEpochs:
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
        run = SimpleNamespace(
            head="dense",
            members={},
            history=history,
            class_names=["class"] * classes,
            kept_epoch=kept or int(np.argmax(validation)) + 1,
            sweep=[{}],
            chosen={},
            warnings=[],
        )
        found = diagnosis(run, reached, [])  # type: ignore[arg-type]
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

    def test_a_gap_weighs_more_than_a_late_rise(self) -> None:
        verdict, _ = self.verdict([0.8, 0.9, 0.95, 0.97, 0.98], [0.70, 0.75, 0.77, 0.775, 0.785])
        assert verdict == "overfit"

    def test_agreement_is_neither(self) -> None:
        verdict, _ = self.verdict([0.78, 0.81, 0.82, 0.82, 0.82], [0.78, 0.80, 0.80, 0.80, 0.80])
        assert verdict == "neither"


class TestWithoutEpochs:
    @staticmethod
    def of(training: float | None, validation: float, reached: float = 0.0, **more: Any) -> dict[str, str]:
        row = {"value": 1.0, "accuracy": validation, "loss": 1.0}
        row |= {} if training is None else {"train_accuracy": training}
        worse = row | {"value": 9.0, "accuracy": 0.0}
        run = SimpleNamespace(
            head="ridge",
            members={},
            history={},
            class_names=["class"] * 10,
            chosen=more.get("chosen", {"alpha": 1.0}),
            sweep=more.get("sweep", [worse, row, worse]),
            warnings=more.get("warnings", []),
        )
        return diagnosis(run, reached, more.get("points", []))  # type: ignore[arg-type]

    def test_the_chosen_fit_is_judged(self) -> None:
        assert self.of(0.95, 0.80)["verdict"] == "overfit"
        assert self.of(0.82, 0.80)["verdict"] == "neither"
        assert self.of(0.62, 0.60, reached=0.80)["verdict"] == "underfit"
        sentence = self.of(0.95, 0.80)["sentence"]
        assert "With the chosen alpha accuracy is 0.950 on training and 0.800 on validation" in sentence

    def test_a_sweep_has_settled_how_much_to_regularise(self) -> None:
        assert "alpha was chosen inside its grid" in self.of(0.95, 0.80)["sentence"]
        assert "more regularisation" not in self.of(0.95, 0.80)["sentence"].lower()

    def test_a_sweep_over_words_has_settled_nothing_of_that_kind(self) -> None:
        sentence = self.of(0.95, 0.80, chosen={"kernel": "rbf"})["sentence"]
        assert "With the chosen kernel accuracy is 0.950" in sentence
        assert "inside its grid" not in sentence
        assert "more regularisation may help" in sentence

    def test_no_advice_on_epochs_without_epochs(self) -> None:
        only = [{"accuracy": 0.60, "loss": 1.0, "train_accuracy": 0.62}]
        sentence = self.of(0.62, 0.60, reached=0.80, sweep=only, chosen={})["sentence"]
        assert "In the selection fit accuracy is 0.620" in sentence
        assert "training," not in sentence

    def test_nearest_neighbours_have_no_training_accuracy_to_judge(self) -> None:
        found = self.of(None, 0.70, reached=0.80)
        assert found["verdict"] == "neither"
        assert "Accuracy is 0.700 on validation images; another head reaches 0.800" in found["sentence"]
        assert "another head" not in self.of(None, 0.79, reached=0.80)["sentence"]

    def test_a_measured_curve_speaks_of_more_images_alone(self) -> None:
        points = [{"images": 100, "accuracy": [0.5]}, {"images": 400, "accuracy": [0.501]}]
        assert "More images may help" in self.of(0.95, 0.80)["sentence"]
        with_curve = self.of(0.95, 0.80, points=points)["sentence"]
        assert "ore images may help" not in with_curve
        assert "more would help little" in with_curve

    def test_the_end_of_the_learning_curve_says_whether_images_help(self) -> None:
        points = [{"images": 100, "accuracy": [0.5]}, {"images": 400, "accuracy": [0.56]}]
        assert (
            "bring about 3.0 points at the end of the curve: more would help."
            in self.of(0.8, 0.78, points=points)["sentence"]
        )
        points[1]["accuracy"] = [0.505]
        assert "more would help little" in self.of(0.8, 0.78, points=points)["sentence"]

    def test_an_edge_of_the_grid_is_repeated(self) -> None:
        edge = "the chosen C = 1 is the last of its grid (0.1 to 1): a value beyond may be better"
        assert self.of(0.8, 0.78, warnings=[edge])["sentence"].endswith(f"Note: {edge}.")

    def test_the_prior_is_the_floor(self) -> None:
        run = SimpleNamespace(head="prior")
        assert diagnosis(run, 0.9, [])["verdict"] == "floor"  # type: ignore[arg-type]

    def test_a_vote_refers_to_its_members(self) -> None:
        run = SimpleNamespace(head="vote", members={"a": 0.5, "b": 0.5})
        found = diagnosis(run, 0.9, [])  # type: ignore[arg-type]
        assert found == {"verdict": "vote", "sentence": "A vote of 2 runs: see their diagnoses."}
