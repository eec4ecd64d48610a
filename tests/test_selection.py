"""Parameters are chosen on validation alone; the test split is only predicted."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from features.errors import UserError
from models import selection
from models.runs import Run
from models.selection import validation_rows
from tests.test_heads import blobs


class Fake:
    """Embeddings in memory; notes which arrays were asked for."""

    path = Path("fake.h5")
    dataset: ClassVar[dict[str, Any]] = {
        "name": "fake",
        "source": "fake",
        "digest": "d",
        "note": "",
        "limit": None,
    }
    class_names = ("a", "b", "c")
    spec: ClassVar[dict[str, Any]] = {"weights": "imagenet"}
    fingerprint = "f" * 64

    def __init__(self, X: NDArray[np.float32], y: NDArray[np.int64], train: int) -> None:
        self._X = {"train": X[:train], "test": X[train:]}
        self._y = {"train": y[:train], "test": y[train:]}
        self.asked: list[str] = []

    def matrix(self, split: str, layers: Any) -> NDArray[np.float32]:
        self.asked.append(f"X {split}")
        return self._X[split].copy()

    def labels(self, split: str) -> NDArray[np.int64]:
        self.asked.append(f"y {split}")
        return self._y[split]

    def ids(self, split: str) -> list[str]:
        return [f"{split}/{row}" for row in range(len(self._y[split]))]


def train(fake: Any, head: str = "logistic", seed: int = 0) -> Run:
    return selection.train(fake, ("block5",), head, seed)


@pytest.fixture
def fake() -> Fake:
    return Fake(*blobs(rows=400), train=300)


class TestValidationRows:
    labels = np.repeat(np.arange(5), 100)

    def test_they_are_a_stratified_tenth(self) -> None:
        assert np.bincount(self.labels[validation_rows(self.labels, "d")]).tolist() == [10] * 5

    def test_they_are_no_tail_slice_of_a_sorted_folder(self) -> None:
        rows = validation_rows(self.labels, "d")
        assert set(self.labels[rows]) == set(range(5))
        assert np.unique(rows % 100 // 20).size == 5

    def test_they_depend_on_the_dataset_alone(self) -> None:
        one, two = validation_rows(self.labels, "d"), validation_rows(self.labels, "e")
        assert np.array_equal(one, validation_rows(self.labels, "d"))
        assert not np.array_equal(one, two)

    def test_every_seed_and_head_is_validated_on_the_same_images(self, fake: Fake) -> None:
        runs = [train(fake, "logistic", 0), train(fake, "logistic", 9), train(fake, "dense", 3)]
        assert all(np.array_equal(run.val_rows, runs[0].val_rows) for run in runs)


def test_the_best_on_validation_is_chosen(fake: Fake) -> None:
    run = train(fake)
    best = max(run.sweep, key=lambda tried: tried["accuracy"])
    assert run.chosen == {"C": best["value"]}
    accuracy = (run.val_proba.argmax(1) == run.val_labels).mean()
    assert accuracy == best["accuracy"]


def test_the_refit_sees_all_of_train(fake: Fake) -> None:
    run = train(fake)
    assert run.train_rows == 300
    np.testing.assert_allclose(run.estimator.mean_, fake._X["train"].mean(axis=0, dtype=np.float64))


def test_test_images_and_labels_do_not_change_what_is_chosen_or_fitted(fake: Fake) -> None:
    other = Fake(*blobs(rows=400), train=300)
    other._X["test"] = other._X["test"][::-1] * 3
    other._y["test"] = np.zeros(100, np.int64)
    for head in ("logistic", "dense"):
        one, two = train(fake, head), train(other, head)
        assert one.chosen == two.chosen
        np.testing.assert_allclose(one.val_proba, two.val_proba, atol=1e-6)


def test_test_arrays_are_read_after_the_last_fit(fake: Fake) -> None:
    train(fake)
    assert [name.split()[1] for name in fake.asked] == ["train", "train", "test", "test", "test"]


def test_a_neural_head_refits_as_long_as_validation_chose(fake: Fake) -> None:
    run = train(fake, "dense")
    best = int(np.argmax(run.history["val_accuracy"])) + 1
    assert run.chosen == {"stop_epoch": best}
    assert run.estimator.best_epoch_ == best
    assert run.parameters["stop_epoch"] == best


def test_embeddings_that_are_no_numbers_are_refused(fake: Fake) -> None:
    fake._X["train"][5, 5] = np.nan
    with pytest.raises(UserError, match="NaN or infinite"):
        train(fake)


def test_nothing_else_knows_the_validation_split() -> None:
    """``validation_rows`` is called in selection.py alone."""
    callers = set()
    for path in Path(selection.__file__).parents[1].glob("*/*.py"):
        if path.parent.name in ("features", "models", "reports", "pipeline"):
            names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
            callers |= {path.name} if "validation_rows" in names else set()
    assert callers == {"selection.py"}
