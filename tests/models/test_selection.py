"""Parameters are chosen on validation alone; the test split is only predicted."""

from __future__ import annotations

import ast
import hashlib
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss

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


class Skilled(CentroidHead):
    """Right on so many tenths of the images, whatever it is fitted on; it knows how often it was fitted."""

    def __init__(self, skill: float = 10, handicap: float = 0) -> None:
        self.skill = skill
        self.handicap = handicap

    def fit(self, X: NDArray[np.float32], y: NDArray[Any]) -> Skilled:
        super().fit(X, y)
        self.fits_ = getattr(self, "fits_", 0) + 1
        return self

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        proba = super().predict_proba(X)
        wrong = np.arange(len(proba)) % 10 >= self.skill - self.handicap
        proba[wrong] = np.roll(proba[wrong], 1, axis=1)
        return proba


class Warned(Skilled):
    """Warns in each fit on so many images; validation is a tenth of the 300 there are."""

    images: ClassVar[int]
    category: ClassVar[type[Warning]]

    def fit(self, X: NDArray[np.float32], y: NDArray[Any]) -> Skilled:
        if len(X) == self.images:
            warnings.warn(f"as skill is {self.skill}", self.category, stacklevel=1)
        return super().fit(X, y)


PAST_THE_TOP = {"skill": (2, 10, 5)}  # the best lies within, so that nothing need be told


def skilled(
    monkeypatch: pytest.MonkeyPatch,
    grid: Mapping[str, tuple[float, ...]] = PAST_THE_TOP,
    make: type[Skilled] = Skilled,
) -> None:
    monkeypatch.setitem(HEADS, "skilled", registry.Head(lambda seed: make(), "right on tenths", grid))


class TestTheSweep:
    @pytest.mark.parametrize(
        ("grid", "tried"),
        [
            ((2, 9, 5, 4, 3, 10), (2, 9, 5, 4)),
            ((5, 9, 4, 9, 4, 3, 10), (5, 9, 4, 9, 4, 3)),  # as good as the best is not below it
            ((2, 9, 5), (2, 9, 5)),
        ],
    )
    def test_it_ends_after_two_values_in_a_row_below_the_best(
        self, fake: Fake, monkeypatch: pytest.MonkeyPatch, grid: tuple[int, ...], tried: tuple[int, ...]
    ) -> None:
        skilled(monkeypatch, {"skill": grid})
        run = train(fake, "skilled")
        assert [row["value"] for row in run.sweep] == list(tried)
        assert [row["accuracy"] for row in run.sweep] == pytest.approx([value / 10 for value in tried])
        assert run.chosen == {"skill": 9}
        assert run.estimator.skill == 9, "the final fit is with what was chosen, not with what came last"

    def test_of_two_parameters_every_combination_is_tried(
        self, fake: Fake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        skilled(monkeypatch, {"skill": (9, 5, 4), "handicap": (1, 2)})
        rows = [(row["skill"], row["handicap"]) for row in train(fake, "skilled").sweep]
        assert rows == [(9, 1), (9, 2), (5, 1), (5, 2), (4, 1), (4, 2)]

    def test_values_of_ones_own_are_all_tried(self, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
        skilled(monkeypatch, {})
        run = train(fake, "skilled", grid={"handicap": [1, 5, 6, 7]})
        assert [row["value"] for row in run.sweep] == [1, 5, 6, 7]

    def test_of_equals_the_first_stays(self, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
        """Equal in accuracy and loss; the first is the most regularised."""
        skilled(monkeypatch, {"skill": (2, 8.5, 9)})
        assert train(fake, "skilled").chosen == {"skill": 8.5}

    def test_each_value_has_its_numbers(self, fake: Fake) -> None:
        run = train(fake, "ridge")
        chosen = next(row for row in run.sweep if row["value"] == run.chosen["alpha"])
        assert chosen["loss"] == pytest.approx(log_loss(run.val_labels, run.val_proba))
        assert {tuple(row) for row in run.sweep} == {
            ("value", "accuracy", "loss", "train_accuracy", "seconds")
        }

    def test_its_accuracy_on_its_own_images_is_of_those_it_was_fitted_on(
        self, fake: Fake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        skilled(monkeypatch)
        assert [row["train_accuracy"] for row in train(fake, "skilled").sweep] == [0.2, 1.0, 0.5]

    def test_neighbours_have_none_as_they_know_their_own_by_heart(self, fake: Fake) -> None:
        assert not any("train_accuracy" in row for row in train(fake, "knn").sweep)

    def test_curves_and_decisions_are_those_of_the_chosen_fit(
        self, fake: Fake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Curved(Skilled):
            def curves(self) -> tuple[dict[str, list[float]], int | None]:
                return {"accuracy": [0.0, self.skill]}, int(self.skill)

            def decided(self) -> dict[str, Any]:
                return {"handicap": self.skill / 100}

        skilled(monkeypatch, make=Curved)
        run = train(fake, "skilled")
        assert (run.history, run.kept_epoch) == ({"accuracy": [0.0, 10]}, 10)
        assert run.chosen == {"skill": 10, "handicap": 0.1}
        assert run.estimator.handicap == 0.1


class TestTheFinalFit:
    @pytest.mark.parametrize(("warm", "fits"), [(False, 1), (True, 4)])
    def test_it_goes_on_from_the_sweep_where_the_head_starts_warm_alone(
        self, fake: Fake, monkeypatch: pytest.MonkeyPatch, warm: bool, fits: int
    ) -> None:
        skilled(monkeypatch)
        monkeypatch.setattr(Skilled, "warm_start", warm)
        assert train(fake, "skilled").estimator.fits_ == fits

    @pytest.mark.parametrize(("head", "seed"), [("ExtraTreeClassifier", 3), ("ridge", 0)])
    def test_its_seed_is_that_of_the_run_where_the_head_is_random(
        self, fake: Fake, head: str, seed: int
    ) -> None:
        run = train(fake, head, seed=3)
        assert run.seed == seed
        assert run.parameters.get("random_state", seed) == seed

    def test_its_seconds_are_within_those_of_the_whole(self, fake: Fake) -> None:
        started = time.perf_counter()
        run = train(fake, "ridge")
        whole = time.perf_counter() - started
        assert set(run.seconds) == {"select", "refit", "predict"}
        assert min(run.seconds.values()) > 0
        assert sum(run.seconds.values()) < whole
        assert 0 < sum(row["seconds"] for row in run.sweep) < run.seconds["select"]

    def test_a_head_that_needs_more_memory_than_there_is_is_not_tried(
        self, fake: Fake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Large(Skilled):
            def memory(self, rows: int, width: int, classes: int) -> tuple[int, str]:
                return 1 << 60, f"{rows} x {width} x {classes}"

            def fit(self, X: Any, y: Any) -> Skilled:
                raise AssertionError("it was fitted")

        skilled(monkeypatch, make=Large)
        expected = r"the head skilled needs at least .* \(300 x 8 x 3\), .* fewer images \(limit\)"
        with pytest.raises(UserError, match=expected):
            train(fake, "skilled")


class TestWhatAReaderIsTold:
    @pytest.mark.parametrize(
        ("images", "fit"),
        [
            (270, "the solver of a value that was tried stopped before it had converged: as skill is 5"),
            (300, "the solver of the final fit stopped before it had converged: as skill is 10"),
        ],
    )
    def test_that_a_solver_stopped_early(
        self, fake: Fake, monkeypatch: pytest.MonkeyPatch, images: int, fit: str
    ) -> None:
        monkeypatch.setattr(Warned, "images", images, raising=False)
        monkeypatch.setattr(Warned, "category", ConvergenceWarning, raising=False)
        skilled(monkeypatch, make=Warned)
        assert train(fake, "skilled").warnings == [fit]

    def test_other_warnings_of_a_head_pass_as_they_are(
        self, fake: Fake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Warned, "images", 300, raising=False)
        monkeypatch.setattr(Warned, "category", RuntimeWarning, raising=False)
        skilled(monkeypatch, make=Warned)
        with pytest.warns(RuntimeWarning, match="as skill is 10"):
            assert train(fake, "skilled").warnings == []

    def test_what_the_head_says_of_its_final_fit(self, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
        skilled(monkeypatch)
        monkeypatch.setattr(Skilled, "remarks", lambda self: [f"has skill {self.skill}"])
        assert train(fake, "skilled").warnings == ["the final fit has skill 10"]

    @pytest.mark.parametrize(("own", "told"), [(0.895, True), (0.905, False)])
    def test_that_the_final_fit_has_collapsed(self, fake: Fake, own: float, told: bool) -> None:
        """On its own images it is a tenth less accurate than the selection fit on validation, 1 here."""
        material = TrainSplit(fake, ("block5",))  # type: ignore[arg-type]
        chosen = selection.Selection(val_proba=np.eye(3)[material.y_val])
        found = selection._warnings("centroid", HEADS["centroid"], chosen, material, own)
        assert [said.partition(": ")[2][:20] for said in found] == ["it has collapsed, ma"] * told

    def test_not_that_a_head_is_as_good_as_the_floor(
        self, fake: Fake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        skilled(monkeypatch)
        run = train(fake, "skilled")
        assert run.floors == {"prior": pytest.approx(1 / 3), "centroid": 1.0}
        assert run.warnings == []

    def test_while_it_goes_on(
        self, fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        class Epochs(Skilled):
            def fit_watching(self, X: Any, y: Any, watched: Any, on_epoch: Any) -> Any:
                on_epoch(3, {"accuracy": [0.5, 0.75], "val_accuracy": [0.25, 0.5]})
                return self.fit(X, y)

        skilled(monkeypatch, {"skill": (2, 9), "handicap": (0, 1)}, Epochs)
        train(fake, "skilled")
        lines = capsys.readouterr().err.splitlines()
        assert lines[0] == "skilled: epoch 3, accuracy 0.7500, validation 0.5000"
        assert lines[1].startswith("skilled, skill=2, handicap=0: validation accuracy 0.2000 (")
        assert "skilled: refit on all 300 training images, skill=9, handicap=0" in lines
        assert "warning: skilled: worse on validation than centroid" in "\n".join(lines)


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
