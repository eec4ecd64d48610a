"""Over- or underfitting is told from the numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from reports.diagnosis import diagnosis


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
            train_accuracy=0.0,
            val_accuracy=0.0,
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

    def test_agreement_is_neither(self) -> None:
        verdict, _ = self.verdict([0.78, 0.81, 0.82, 0.82, 0.82], [0.78, 0.80, 0.80, 0.80, 0.80])
        assert verdict == "neither"


class TestWithoutEpochs:
    @staticmethod
    def of(training: float, validation: float, reached: float = 0.0, **more: Any) -> dict[str, str]:
        run = SimpleNamespace(
            head="ridge",
            members={},
            history={},
            class_names=["class"] * 10,
            kept_epoch=None,
            train_accuracy=training,
            val_accuracy=validation,
            warnings=more.get("warnings", []),
        )
        return diagnosis(run, reached, more.get("points", []))  # type: ignore[arg-type]

    def test_the_final_fit_is_judged(self) -> None:
        assert self.of(0.95, 0.80)["verdict"] == "overfit"
        assert self.of(0.82, 0.80)["verdict"] == "neither"
        assert self.of(0.62, 0.60, reached=0.80)["verdict"] == "underfit"
        assert "After the final fit accuracy is 0.950 on training" in self.of(0.95, 0.80)["sentence"]

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
        assert found == {"verdict": "vote", "sentence": "A vote of 2 runs: see those for theirs."}
