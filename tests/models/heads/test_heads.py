"""Every head is an ordinary scikit-learn classifier, and a saved head is data."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score

from features.errors import UserError
from models.heads import saved
from models.heads.dense import ACTIVATIONS
from models.heads.parameters import parse, written
from models.heads.registry import HEADS, head

TOLERANCE = 1e-4  # between two fits with one seed: threads may add up in another order


def blobs(classes: int = 3, rows: int = 90, width: int = 8) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    y = np.arange(rows) % classes
    centres = rng.normal(0, 2, (classes, width))
    return (centres[y] + rng.normal(0, 0.5, (rows, width))).astype(np.float32), y


def fitted(name: str, X: Any, y: Any, seed: int = 0) -> Any:
    return head(name).make(seed).fit(X, y)


@pytest.fixture(params=HEADS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestContract:
    def test_probabilities_follow_the_classes(self, name: str) -> None:
        X, y = blobs()
        estimator = fitted(name, X, y)
        proba = estimator.predict_proba(X)
        assert proba.shape == (90, 3)
        np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)
        assert proba.min() >= 0
        assert estimator.classes_.tolist() == [0, 1, 2]
        assert np.array_equal(estimator.classes_[proba.argmax(axis=1)], estimator.predict(X))

    def test_it_learns(self, name: str) -> None:
        X, y = blobs(rows=900)
        reached = (fitted(name, X, y).predict(X) == y).mean()
        assert reached > 0.9 if name != "prior" else reached == pytest.approx(1 / 3)

    def test_columns_follow_labels_that_are_not_0_to_k(self, name: str) -> None:
        X, y = blobs(rows=300)
        estimator = fitted(name, X, y * 5 + 2)
        assert estimator.classes_.tolist() == [2, 7, 12]
        assert set(estimator.predict(X)) <= {2, 7, 12}

    def test_a_clone_is_unfitted_and_equal(self, name: str) -> None:
        estimator = head(name).make(3)
        assert saved.parameters(clone(estimator)) == saved.parameters(estimator)

    def test_one_seed_gives_one_result(self, name: str) -> None:
        X, y = blobs()
        one, two = fitted(name, X, y, 5).predict_proba(X), fitted(name, X, y, 5).predict_proba(X)
        np.testing.assert_allclose(one, two, atol=TOLERANCE)

    def test_memory_order_does_not_matter(self, name: str) -> None:
        X, y = blobs()
        strided = np.repeat(X, 2, axis=1)[:, ::2]
        assert not strided.flags.c_contiguous
        one, two = fitted(name, X, y), fitted(name, strided, y)
        np.testing.assert_allclose(one.predict_proba(X), two.predict_proba(strided), atol=TOLERANCE)

    def test_the_input_is_left_alone(self, name: str) -> None:
        X, y = blobs()
        before = X.copy()
        fitted(name, X, y).predict_proba(X)
        assert np.array_equal(X, before)

    def test_two_classes(self, name: str) -> None:
        X, y = blobs(classes=2)
        assert fitted(name, X, y).predict_proba(X).shape == (90, 2)

    def test_before_a_fit_it_says_so(self, name: str) -> None:
        X, _ = blobs()
        estimator = head(name).make(0)
        asks: dict[str, tuple[Any, ...]] = {
            "predict": (X,),
            "predict_proba": (X,),
            "decision_function": (X,),
            "predict_proba_of_own": (X, np.arange(3)),
            "neighbours": (X, 3),
            "plain": (1.0,),
        }
        for ask, given in asks.items():
            if hasattr(estimator, ask):
                with pytest.raises(NotFittedError):
                    getattr(estimator, ask)(*given)

    def test_scores_of_two_classes_are_one_column_of_the_second(self, name: str) -> None:
        X, y = blobs(classes=2)
        estimator = fitted(name, X, np.array(["cat", "dog"])[y])
        if hasattr(estimator, "decision_function"):
            scores = estimator.decision_function(X)
            assert scores.shape == (90,)
            assert np.array_equal(scores > 0, estimator.predict(X) == "dog")
            assert np.array_equal(scores > 0, estimator.predict_proba(X)[:, 1] > 0.5)
            assert fitted(name, *blobs()).decision_function(X).shape == (90, 3)

    def test_scikit_learn_scores_it_by_the_area_under_its_curve(self, name: str) -> None:
        X, y = blobs(classes=2)
        areas = cross_val_score(head(name).make(0), X, y, cv=2, scoring="roc_auc")
        assert (areas == 0.5).all() if name == "prior" else areas.min() > 0.9

    @pytest.mark.parametrize("classes", [2, 3])
    def test_scikit_learn_calibrates_it(self, name: str, classes: int) -> None:
        X, y = blobs(classes=classes)
        calibrated = CalibratedClassifierCV(head(name).make(0), method="sigmoid", cv=2).fit(X, y)
        assert calibrated.predict_proba(X).shape == (90, classes)
        right = (calibrated.predict(X) == y).mean()
        assert right == pytest.approx(1 / classes) if name == "prior" else right > 0.9

    def test_a_class_with_one_sample(self, name: str) -> None:
        X, y = blobs()
        y = np.where(np.arange(len(y)) == 7, 3, y)
        assert fitted(name, X, y).predict_proba(X).shape == (90, 4)

    def test_constant_columns(self, name: str) -> None:
        X, y = blobs()
        X[:, 2] = 5
        assert np.isfinite(fitted(name, X, y).predict_proba(X)).all()

    def test_more_columns_than_rows_that_all_say_the_same(self, name: str) -> None:
        rng = np.random.default_rng(0)
        X = (rng.random((40, 1)) * np.arange(1, 201)).astype(np.float32)
        for values in product(*HEADS[name].grid.values()):
            estimator = head(name).make(0).set_params(**dict(zip(HEADS[name].grid, values, strict=True)))
            assert np.isfinite(estimator.fit(X, np.arange(40) % 2).predict_proba(X)).all()

    def test_another_width_is_refused_by_its_number(self, name: str) -> None:
        X, y = blobs()
        with pytest.raises(ValueError, match=r"X has 7 features.* 8 features"):
            fitted(name, X, y).predict_proba(X[:, :7])

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_what_is_not_a_number_is_refused(self, name: str, bad: float) -> None:
        X, y = blobs()
        X[4, 4] = bad
        with pytest.raises(ValueError, match=r"NaN|infinity"):
            fitted(name, X, y)

    def test_one_class_is_refused(self, name: str) -> None:
        X, y = blobs()
        with pytest.raises(ValueError, match="class"):
            fitted(name, X, y * 0)

    def test_it_becomes_data_and_back(self, name: str) -> None:
        X, y = blobs()
        estimator = fitted(name, X, y)
        tree, arrays = saved.to_data(estimator)
        assert all(array.dtype != object for array in arrays.values())
        again = saved.from_data(head(name).make(0), tree, arrays)
        np.testing.assert_allclose(again.predict_proba(X), estimator.predict_proba(X), atol=1e-6)

    def test_the_sweep_names_a_real_parameter(self, name: str) -> None:
        estimator = head(name).make(0)
        for parameter, values in HEADS[name].grid.items():
            for value in values:
                assert estimator.set_params(**{parameter: value}).get_params()[parameter] == value


class TestParameters:
    @pytest.mark.parametrize(
        ("name", "settings"),
        [
            ("dense", {name: value})
            for name, values in {
                "hidden": [0, -5, 1.5, "x", (256, 0), 10**9, (True,)],
                "activation": ["nope", 3, None],
                "standardize": [1, "yes"],
                "batch_norm": [None],
                "dropout": [1, 1.5, -0.1, "x", True],
                "input_dropout": [1],
                "input_noise": [-1],
                "label_smoothing": [1.0],
                "optimizer": ["adam"],
                "learning_rate": [0, -1, float("inf"), float("nan"), "abc", 10**400, (0.1,), None, 1j],
                "schedule": ["linear"],
                "weight_decay": [-1],
                "batch_size": [0, 32.0],
                "epochs": ["abc", 0, -3, 2.5, True, 10**30],
                "patience": [0, "x"],
                "stop_epoch": [0],
            }.items()
            for value in values
        ]
        + [(name, {"C": value}) for name in ("svm", "logistic") for value in (0, -1, "x")]
        + [("logistic", {"tol": 0}), ("logistic", {"max_iter": 0})]
        + [("ridge", {"alpha": 0}), ("lda", {"shrinkage": 1.1}), ("lda", {"shrinkage": -0.1})]
        + [("knn", {"k": 0}), ("knn", {"k": 2.5}), ("knn", {"temperature": 0})],
    )
    def test_what_one_cannot_be_is_refused_by_fit_and_in_a_line(
        self, name: str, settings: dict[str, Any]
    ) -> None:
        (parameter,) = settings
        with pytest.raises(UserError, match=f"^settings: {parameter}=.*: expected .*") as told:
            head(name, settings)
        assert "\n" not in str(told.value)
        with pytest.raises(ValueError, match=f"^{parameter}=.*: expected .*"):
            head(name).make(0).set_params(**settings).fit(*blobs())

    def test_a_sweep_refuses_it_too(self) -> None:
        X, y = blobs()
        with pytest.raises(ValueError, match="alpha=-1: expected a number above 0"):
            list(head("ridge").make(0).sweep(X, y, (X, y), {"alpha": [1.0, -1]}))

    def test_what_is_set_is_what_is_made_and_no_longer_swept(self) -> None:
        entry = head("knn", {"k": 7})
        assert entry.make(0).k == 7
        assert entry.grid == HEADS["knn"].grid | {"k": (7,)}
        assert head("knn").make(0).k != 7

    def test_the_seed_is_still_the_seeds(self) -> None:
        assert head("dense", {"epochs": 3}).make(5).random_state == 5

    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            ({"learning_rate": 1}, 1.0),
            ({"hidden": 64}, (64,)),
            ({"hidden": [64, 32]}, (64, 32)),
            ({"hidden": ()}, ()),
            ({"patience": None}, None),
        ],
    )
    def test_one_value_has_one_spelling(self, given: dict[str, Any], kept: Any) -> None:
        (value,) = (head("dense", given).make(0).get_params()[name] for name in given)
        assert value == kept
        assert type(value) is type(kept)

    def test_keras_knows_every_activation(self) -> None:
        import keras

        for name in ACTIVATIONS:
            assert keras.activations.get(name).__name__ == name

    @pytest.mark.parametrize(
        ("text", "settings"),
        [
            ("", {}),
            ("learning_rate=0.1,epochs=40", {"learning_rate": 0.1, "epochs": 40}),
            (" a = 1 , b = (2,3), c=x", {"a": 1, "b": (2, 3), "c": "x"}),
            ("hidden=(256,128),activation=relu", {"hidden": (256, 128), "activation": "relu"}),
            ("a='relu',b=None,c=True,d=-1e-3", {"a": "relu", "b": None, "c": True, "d": -1e-3}),
            ("a=(1,2", {"a": "(1,2"}),
            ("a=b=c", {"a": "b=c"}),
            ("a=" + "(" * 1000, {"a": "(" * 1000}),
            (r"a='\d'", {"a": r"\d"}),
        ],
    )
    def test_a_line_becomes_values_and_back(self, text: str, settings: dict[str, Any]) -> None:
        assert parse(text) == settings
        assert parse(written(settings)) == settings


def test_an_unknown_head_lists_the_known() -> None:
    with pytest.raises(UserError, match="unknown head 'nope': expected one of prior, centroid, knn"):
        head("nope")


def test_what_is_no_data_is_refused() -> None:
    estimator = head("logistic").make(0)
    estimator.secret_ = object()
    with pytest.raises(TypeError, match="cannot be stored as data"):
        saved.to_data(estimator)
