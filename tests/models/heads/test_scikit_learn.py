"""scikit-learn's own checks of an estimator, and its tools, on every head."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from models.heads.registry import HEADS
from tests.models.heads.test_heads import blobs

SMALL: dict[str, dict[str, Any]] = {  # enough to learn the checks' few rows
    "dense": {"hidden": (16,), "epochs": 20, "learning_rate": 0.02, "input_dropout": 0.0, "batch_size": 32},
    "baseline": {"hidden": (16,), "epochs": 20, "learning_rate": 0.1, "batch_size": 32},
}
EXPECTED = {
    "PriorHead": {"check_classifiers_train": "it does not look at the inputs, and so learns nothing of them"}
}


def small(name: str) -> Any:
    return HEADS[name].make(0).set_params(**SMALL.get(name, {}))


@parametrize_with_checks(
    [small(name) for name in HEADS if name not in SMALL],
    expected_failed_checks=lambda estimator: EXPECTED.get(type(estimator).__name__, {}),
)
def test_scikit_learn_checks_it(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([small(name) for name in SMALL])
def test_scikit_learn_checks_a_keras_head(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("name", HEADS)
class TestTools:
    def test_a_pipeline(self, name: str) -> None:
        X, y = blobs()
        chain = make_pipeline(StandardScaler(), small(name)).fit(X, y)
        assert chain.predict_proba(X).shape == (90, 3)
        assert chain.score(X, y) > (0.9 if name != "prior" else 0.3)

    def test_a_grid_search(self, name: str) -> None:
        X, y = blobs()
        swept = {parameter: list(values[:2]) for parameter, values in HEADS[name].grid.items()}
        search = GridSearchCV(small(name), swept, cv=2).fit(X, y)
        assert search.best_params_.keys() == swept.keys()
        assert search.predict(X).shape == (90,)

    def test_cross_validation(self, name: str) -> None:
        X, y = blobs()
        scores = cross_val_score(small(name), X, y, cv=3)
        assert scores.min() > (0.9 if name != "prior" else 0.3)

    def test_a_pickle_and_a_clone(self, name: str) -> None:
        X, y = blobs()
        fitted = small(name).fit(X, y)
        again = pickle.loads(pickle.dumps(fitted))
        np.testing.assert_allclose(again.predict_proba(X), fitted.predict_proba(X), atol=1e-6)
        assert clone(fitted).get_params() == fitted.get_params()
        assert not hasattr(clone(fitted), "classes_")


def overlapping() -> tuple[Any, Any]:
    """Two classes that overlap, one of them nine times as frequent."""
    rng = np.random.default_rng(0)
    y = (np.arange(1000) % 10 == 0).astype(int)
    return (rng.normal(0, 1, (1000, 5)) + 1.0 * y[:, None] * np.array([1, 1, 0, 0, 0])).astype(np.float32), y


class TestBalanced:
    @pytest.mark.parametrize(
        ("name", "settings", "plain"),
        [
            ("logistic", {"C": 0.1, "tol": 1e-7}, LogisticRegression(C=0.1, tol=1e-8, max_iter=1000)),
            ("ridge", {"alpha": 10.0}, RidgeClassifier(alpha=10.0)),
            # its intercept is penalised, which a large scaling all but undoes
            (
                "svm",
                {"C": 0.1, "tol": 1e-7},
                LinearSVC(C=0.1, tol=1e-8, intercept_scaling=1e3, max_iter=10**6),
            ),
        ],
    )
    def test_it_is_what_scikit_learn_makes_of_it(
        self, name: str, settings: dict[str, Any], plain: Any
    ) -> None:
        X, y = overlapping()
        ours = small(name).set_params(**settings, class_weight="balanced").fit(X, y)
        theirs = make_pipeline(StandardScaler(), plain.set_params(class_weight="balanced")).fit(X, y)
        one, two = ours.decision_function(X), theirs.decision_function(X)
        # of two classes ours has a score each, with half the coefficients in each where both are penalised
        assert np.corrcoef(one, two)[0, 1] > 0.9999
        assert (ours.predict(X) == theirs.predict(X)).mean() > 0.99

    @pytest.mark.parametrize("name", ["logistic", "ridge", "svm", "dense", "baseline"])
    def test_the_rarer_class_is_found_more_often(self, name: str) -> None:
        X, y = overlapping()
        plain, balanced = (
            small(name).set_params(class_weight=weight).fit(X, y).predict(X) for weight in (None, "balanced")
        )
        assert balanced[y == 1].mean() > plain[y == 1].mean() + 0.2
        assert balanced_accuracy_score(y, balanced) > balanced_accuracy_score(y, plain)

    def test_equal_classes_are_as_they_were(self) -> None:
        X, y = blobs()
        for name in ("logistic", "ridge", "svm"):
            one, two = (
                small(name).set_params(class_weight=weight).fit(X, y).predict_proba(X)
                for weight in (None, "balanced")
            )
            np.testing.assert_allclose(one, two, atol=1e-5)

    def test_where_nothing_is_said_of_it_a_run_is_named_as_before(self) -> None:
        entry = HEADS["logistic"]
        assert "class_weight" not in entry.configuration(0, 100)["asked"]
