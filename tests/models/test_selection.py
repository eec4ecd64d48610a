"""Parameters are chosen on validation alone; the test split is only predicted."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from features.errors import UserError
from models import selection
from models.heads import moments, registry
from models.heads.linear import LinearHead
from models.heads.moments import CentroidHead
from models.heads.registry import HEADS
from models.runs.run import Run
from models.temperature import temperature_of
from models.trainsplit import TrainSplit, validation_rows
from tests.models.heads.test_heads import blobs

ROOT = Path(__file__).parents[2]


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
    spec: ClassVar[dict[str, Any]] = {
        "backbone": "vgg16",
        "weights": "imagenet",
        "weights_sha256": "w" * 64,
        "image_size": 32,
        "preprocess": "imagenet",
        "precision": "float32",
        "mirror": False,
    }
    fingerprint = "f" * 64
    layers = ("block5",)

    def __init__(self, X: NDArray[np.float32], y: NDArray[np.int64], train: int) -> None:
        self._X = {"train": X[:train], "test": X[train:]}
        self._y = {"train": y[:train], "test": y[train:]}
        self.rows = {split: len(labels) for split, labels in self._y.items()}
        self.asked: list[str] = []

    def matrix(self, split: str, layers: Any, order: Any = None) -> NDArray[np.float32]:
        self.asked.append(f"X {split}")
        return self._X[split].copy() if order is None else self._X[split][order]

    def width(self, layer: str) -> int:
        return self._X["train"].shape[1]

    def labels(self) -> NDArray[np.int64]:
        self.asked.append("y train")
        return self._y["train"]

    def test_labels(self) -> NDArray[np.int64]:
        self.asked.append("y test")
        return self._y["test"]

    def digest(self, name: str) -> str:
        return hashlib.sha256(self._y["test"].tobytes()).hexdigest() if "labels" in name else name


def train(
    fake: Any,
    head: str = "logistic",
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    grid: dict[str, Any] | None = None,
) -> Run:
    return selection.train(TrainSplit(fake, ("block5",)), head, seed, settings, grid)


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
    best = max(run.sweep, key=lambda tried: (tried["accuracy"], -tried["loss"]))
    assert run.chosen == {"C": best["value"]}
    accuracy = (run.val_proba.argmax(1) == run.val_labels).mean()
    assert accuracy == best["accuracy"]


def test_the_refit_sees_all_of_train(fake: Fake) -> None:
    run = train(fake)
    assert run.train_rows == 300
    np.testing.assert_allclose(run.estimator.mean_, fake._X["train"].mean(axis=0, dtype=np.float64))


@pytest.mark.slow
def test_test_images_and_labels_do_not_change_what_is_chosen_or_fitted(fake: Fake) -> None:
    other = Fake(*blobs(rows=400), train=300)
    other._X["test"] = other._X["test"][::-1] * 3
    other._y["test"] = np.zeros(100, np.int64)
    for head in ("logistic", "dense"):
        one, two = train(fake, head), train(other, head)
        assert one.chosen == two.chosen
        np.testing.assert_allclose(one.val_proba, two.val_proba, atol=1e-6)


def test_test_arrays_are_read_after_the_last_fit(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = LinearHead._checked

    def noted(self: LinearHead, X: Any, y: Any) -> Any:
        fake.asked.append(f"fit {type(self).__name__}")
        return checked(self, X, y)

    monkeypatch.setattr(LinearHead, "_checked", noted)
    train(fake)
    fits = [place for place, name in enumerate(fake.asked) if name.startswith("fit")]
    assert {fake.asked[place] for place in fits} == {"fit LogisticHead", "fit PriorHead", "fit CentroidHead"}
    assert fake.asked[max(fits) + 1 :] == ["X test", "y test"]
    assert sorted(name for name in fake.asked if "test" in name) == ["X test", "y test"]


def test_a_neural_head_refits_as_long_as_validation_chose(fake: Fake) -> None:
    run = train(fake, "dense", settings={"epochs": 12})
    best = int(np.argmax(run.history["val_accuracy"])) + 1
    assert run.chosen == {"stop_epoch": best}
    assert run.estimator.best_epoch_ == best
    assert run.parameters["stop_epoch"] == best


def test_with_few_images_a_neural_head_trains_and_refits_to_its_end(fake: Fake) -> None:
    run = train(fake, "dense")
    assert run.chosen == {}
    assert len(run.history["val_accuracy"]) == run.parameters["epochs"] == run.estimator.best_epoch_ == 100


def test_embeddings_that_are_no_numbers_are_refused(fake: Fake) -> None:
    fake._X["train"][5, 5] = np.nan
    with pytest.raises(UserError, match="NaN or infinite"):
        train(fake)


def sources(*rooms: str) -> list[Path]:
    """Every source file below these top-level folders."""
    return [path for room in rooms for path in (ROOT / room).rglob("*.py")]


@pytest.mark.parametrize(
    ("name", "readers"),
    [
        ("validation_rows", {"trainsplit.py"}),  # splits off
        ("X_val", {"trainsplit.py", "selection.py", "curve.py", "dense.py"}),
        ("watched", {"selection.py", "base.py", "dense.py", "knn.py", "lbfgs.py", "moments.py"}),  # a sweep
        ("y_val", {"trainsplit.py", "selection.py", "curve.py"}),  # chooses; measures what was chosen
        ("val_labels", {"vote.py", "run.py"}),  # of a run that is done; weighs votes
    ],
)
def test_who_knows_the_validation_split(name: str, readers: set[str]) -> None:
    found = set()
    for path in sources("features", "models", "reports", "pipeline"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        used = {node.id for node in nodes if isinstance(node, ast.Name)}
        used |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        used |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        found |= {path.name} if name in used else set()
    assert found == readers


def test_one_function_hands_out_test_labels_and_the_final_prediction_alone_calls_it() -> None:
    callers = []
    for path in sources("features", "models", "reports", "pipeline", "benchmarks"):
        for node in ast.walk(ast.parse(path.read_text())):
            for inner in ast.walk(node) if isinstance(node, ast.FunctionDef) else ():
                called = isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute)
                if called and inner.func.attr == "test_labels":  # type: ignore[attr-defined]
                    callers.append((path.name, node.name))
                assert not (isinstance(inner, ast.Constant) and inner.value == "test/labels") or (
                    path.name == "embeddings.py"
                ), f"{path.name} reads test labels by their name"
    assert callers == [("selection.py", "train")]


def test_a_value_at_the_edge_of_its_grid_is_told(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake._y["train"] = fake._y["train"] // 2  # two in three are class 0, and so all 270 say
    narrow = registry.Head(HEADS["knn"].make, "narrow", {"k": (270, 3), "temperature": (1e3,)})
    monkeypatch.setitem(HEADS, "knn", narrow)
    (warning,) = train(fake, "knn").warnings
    assert warning.startswith("the chosen k = 3 is the last of its grid (270 to 3): a value beyond")


def test_an_edge_is_told_though_a_value_within_is_as_accurate(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lower log loss decides between equals, and may go on falling beyond the edge."""
    narrow = registry.Head(HEADS["knn"].make, "narrow", {"k": (9,), "temperature": (0.2, 0.02, 0.01)})
    monkeypatch.setitem(HEADS, "knn", narrow)
    run = train(fake, "knn")
    assert {row["accuracy"] for row in run.sweep} == {1.0}
    assert run.chosen["temperature"] == min(run.sweep, key=lambda row: row["loss"])["temperature"] == 0.01
    assert "the chosen temperature = 0.01 is the last of its grid" in run.warnings[0]


def test_worse_than_the_floor_is_told(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HEADS, "ridge", HEADS["prior"])
    (warning,) = train(fake, "ridge").warnings
    assert warning.startswith("worse on validation than centroid")
    assert train(fake, "centroid").floors == train(fake, "ridge").floors


def test_the_temperature_is_fitted_on_validation(fake: Fake) -> None:
    run = train(fake, "knn")
    assert run.temperature == temperature_of(run.val_proba, run.val_labels)
    assert np.array_equal(run.test_scaled.argmax(axis=1), run.test_proba.argmax(axis=1))


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_what_is_no_number_in_the_test_split_is_refused_in_a_line(fake: Fake, bad: float) -> None:
    fake._X["test"][3, 1] = bad
    with pytest.raises(UserError, match=r"fake.h5 contains NaN or infinite numbers; verify the cache"):
        train(fake, "ridge")


class Worded(CentroidHead):
    """Right on every image, on none, or on about half of them, as a word says."""

    def __init__(self, word: Any = "all") -> None:
        self.word = word

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        proba = super().predict_proba(X)
        wrong = np.arange(len(proba)) % 2 < {"all": 0, "half": 1}.get(self.word, 2)
        proba[wrong] = np.roll(proba[wrong], 1, axis=1)
        return proba


class TestGridsOfWords:
    """Words, None and flags have no order, so nothing lies between two of them or beyond the last."""

    def test_all_are_tried_and_no_end_is_told(self, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
        grid = {"word": ("half", None, True, "none", "all")}
        monkeypatch.setitem(HEADS, "worded", registry.Head(lambda seed: Worded(), "words", grid))
        run = train(fake, "worded")
        assert [row["value"] for row in run.sweep] == list(grid["word"])
        assert run.chosen == {"word": "all"}
        assert run.warnings == []

    def test_a_number_at_an_end_is_told_whatever_is_at_the_other(
        self, fake: Fake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        grid = {"k": (3, 5), "temperature": (1e-5, None)}
        monkeypatch.setattr(selection, "FLOORS", ())
        material = TrainSplit(fake, ("block5",))  # type: ignore[arg-type]
        chosen = selection.Selection(
            chosen={"k": 5, "temperature": 1e-5}, val_proba=np.eye(3)[material.y_val]
        )
        head = registry.Head(HEADS["knn"].make, "mixed", grid)
        assert selection._warnings("knn", head, chosen, material, 1.0) == [
            "the chosen k = 5 is the last of its grid (3 to 5): a value beyond may be better",
            "the chosen temperature = 1e-05 is the first of its grid (1e-05 to None): "
            "a value beyond may be better",
        ]


@pytest.mark.parametrize("head", HEADS)
def test_what_a_head_refuses_is_told_in_a_line(fake: Fake, head: str) -> None:
    material = TrainSplit(fake, ("block5",))  # type: ignore[arg-type]
    material.y[:] = 0
    with pytest.raises(UserError, match=r"the head refuses these embeddings: .* needs at least two classes"):
        selection.train(material, head, 0)


def test_any_other_error_of_a_head_is_a_defect_and_stays_one(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object) -> None:
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr(moments.RidgeHead, "_solve", wrong)
    with pytest.raises(ValueError, match="operands could not be broadcast") as raised:
        train(fake, "ridge")
    assert raised.traceback[-1].name == "wrong"
