"""Any scikit-learn classifier is a head: its name, its parameters, its probabilities, what it needs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Perceptron, RidgeClassifier
from sklearn.utils import all_estimators

from features import budget
from features.errors import UserError
from models.heads.base import BaseHead
from models.heads.estimator import EstimatorHead
from models.heads.parameters import parse_grid
from models.heads.registry import HEADS, LEFT_OUT, head, known
from models.temperature import scaled, temperature_of
from tests.models.heads.test_heads import blobs

NAMES = [name for name, _ in all_estimators("classifier") if name not in LEFT_OUT]
OTHER = """
from sklearn.base import BaseEstimator, ClassifierMixin
import numpy as np

class First(ClassifierMixin, BaseEstimator):
    def __init__(self, shift=0):
        self.shift = shift
    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self
    def predict(self, X):
        return np.full(len(X), self.classes_[self.shift])

class Needs(First):
    def __init__(self, shift):
        super().__init__(shift)
"""


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "other_package.py").write_text(OTHER)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "other_package:First"
    sys.modules.pop("other_package", None)


class TestNames:
    def test_every_classifier_of_scikit_learn_is_a_head_or_is_left_out_for_a_reason(self) -> None:
        every = {name for name, _ in all_estimators("classifier")}
        assert set(LEFT_OUT) <= every
        assert len(NAMES) >= 32
        for name, reason in LEFT_OUT.items():
            assert reason
            with pytest.raises(UserError, match=f"{name} cannot be a head: "):
                head(name)

    @pytest.mark.parametrize("name", NAMES)
    def test_it_fits_and_gives_probabilities(self, name: str) -> None:
        X, y = blobs(rows=120)
        X -= X.min()
        entry = head(name)
        fitted = entry.make(0).fit(X, y)
        proba = fitted.predict_proba(X)
        assert entry.about.startswith("scikit-learn's: ")
        assert proba.shape == (120, 3)
        np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-6)
        assert (fitted.predict(X) == y).mean() > (0.3 if name in ("DummyClassifier", "BernoulliNB") else 0.8)

    def test_the_nine_are_not_scikit_learns(self) -> None:
        assert all(known(name) is HEADS[name] for name in HEADS)
        assert not any(isinstance(entry.make(0), EstimatorHead) for entry in HEADS.values())
        assert all(isinstance(entry.make(0), BaseHead) for entry in HEADS.values())

    def test_an_unknown_name_lists_ours_says_how_others_are_named_and_what_is_near(self) -> None:
        with pytest.raises(
            UserError, match=r"did you mean LogisticRegression\?\): expected one of prior, .*, baseline; all"
        ) as told:
            head("LogisticRegresion")
        assert "or module:Class" in str(told.value)
        assert "\n" not in str(told.value)

    def test_a_class_of_another_package(self, other: str, capsys: pytest.CaptureFixture[str]) -> None:
        entry = head(other, {"shift": 1})
        assert "runs the code of the module other_package" in capsys.readouterr().err
        X, y = blobs()
        proba = entry.make(0).fit(X, y).predict_proba(X)
        least = 1 / (90 + 3)
        np.testing.assert_allclose(proba[:, [0, 2]], least / (1 + 2 * least))
        assert (proba[:, 1] > 0.97).all()
        assert known(other) is None, "its code is run only where it is asked for by name"

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("other_package:Missing", "has no attribute 'Missing'"),
            ("other_package:Needs", "missing 1 required positional argument"),
            ("nowhere_at_all:First", "No module named"),
            ("other_package:First:Second", "unknown head"),
            ("other package:First", "unknown head"),
            (":First", "unknown head"),
        ],
    )
    def test_what_is_none_is_told_in_a_line(self, other: str, name: str, message: str) -> None:
        with pytest.raises(UserError, match=message) as told:
            head(name)
        assert "\n" not in str(told.value)


class TestParameters:
    def test_they_are_the_classifiers_own(self) -> None:
        made = head("RandomForestClassifier", {"n_estimators": 7}).make(3)
        assert made.estimator.n_estimators == 7
        assert made.get_params()["random_state"] == 3
        assert made.get_params()["n_jobs"] == -1, "as many as the machine has"

    def test_the_number_of_processes_is_no_part_of_what_was_asked(self) -> None:
        asked = head("RandomForestClassifier").configuration(0, 10)["asked"]
        assert "n_jobs" not in asked
        assert asked["n_estimators"] == RandomForestClassifier().n_estimators

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"C": -1}, "settings: LogisticRegression: The 'C' parameter .* Got -1 instead"),
            ({"nope": 1}, "settings: LogisticRegression has no parameter 'nope': expected one of C, "),
            ({"scale": "robust"}, "settings: scale=robust: expected None or one of standard"),
            ({"class_weight": {0: 2}}, "settings: class_weight=.*: expected a number, a word"),
        ],
    )
    def test_what_it_cannot_be_is_refused_in_a_line(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message) as told:
            head("LogisticRegression", settings)
        assert "\n" not in str(told.value)

    def test_scale_puts_a_scaler_before_it(self) -> None:
        X, y = blobs()
        scaled = head("LogisticRegression", {"scale": "standard"}).make(0).fit(X * 1000, y)
        plain = head("LogisticRegression").make(0).fit((X - X.mean(axis=0)) / X.std(axis=0), y)
        assert [name for name, _ in scaled.fitted_.steps] == ["standardscaler", "logisticregression"]
        np.testing.assert_allclose(scaled.fitted_[-1].coef_, plain.fitted_.coef_, rtol=1e-3)

    def test_headrooms_own_heads_take_no_scale(self) -> None:
        with pytest.raises(UserError, match="settings: logistic has no parameter 'scale'"):
            head("logistic", {"scale": "standard"})


class TestGrid:
    @pytest.mark.parametrize(
        ("text", "grid"),
        [
            ("C=0.001,0.01,0.1", {"C": (0.001, 0.01, 0.1)}),
            ("max_depth=3, None", {"max_depth": (3, None)}),
            ("hidden_layer_sizes=(64,),(64,64)", {"hidden_layer_sizes": ((64,), (64, 64))}),
            ("kernel=rbf,linear", {"kernel": ("rbf", "linear")}),
        ],
    )
    def test_a_line_becomes_values(self, text: str, grid: dict[str, Any]) -> None:
        assert parse_grid(text) == grid

    @pytest.mark.parametrize("text", ["", "C", "C=", "=1,2", "0.1,1", "C=,"])
    def test_what_is_none_is_told_with_an_example(self, text: str) -> None:
        with pytest.raises(UserError, match=r"grid=.*: expected .* as in grid=C=0.001,0.01,0.1"):
            parse_grid(text)

    def test_numbers_are_tried_in_order_and_once(self) -> None:
        entry = head("LogisticRegression", None, {"C": (1.0, 0.01, 0.1, 0.01)})
        assert entry.grid == {"C": (0.01, 0.1, 1.0)}
        assert not entry.ordered, "all of a user's values are tried"

    def test_another_parameter_of_ours_keeps_its_own(self) -> None:
        entry = head("knn", None, {"k": (3, 4)})
        assert entry.grid == {"k": (3, 4), "temperature": HEADS["knn"].grid["temperature"]}

    @pytest.mark.parametrize("name", ["logistic", "ridge", "knn"])
    def test_a_parameter_that_a_head_does_not_sweep_itself(self, name: str) -> None:
        swept = {
            "logistic": ("max_iter", (300, 400)),
            "ridge": ("class_weight", (None, "balanced")),
            "knn": ("k", (3, 5)),
        }
        parameter, values = swept[name]
        X, y = blobs()
        entry = head(name, None, {parameter: values})
        entry = head(
            name,
            {other: tried[0] for other, tried in HEADS[name].grid.items() if other != parameter},
            {parameter: values},
        )
        tried = [chosen[parameter] for chosen, _ in entry.make(0).sweep(X, y, (X, y), entry.grid)]
        assert tried == list(values)

    @pytest.mark.parametrize(
        ("settings", "grid", "message"),
        [
            ({"C": 1.0}, {"C": (0.1,)}, "grid: C is set by settings= already"),
            (None, {"nope": (1,)}, "has no parameter 'nope'"),
            (None, {"C": (1.0, -1)}, "Got -1 instead"),
        ],
    )
    def test_what_cannot_be_swept_is_refused(self, settings: Any, grid: Any, message: str) -> None:
        with pytest.raises(UserError, match=message):
            head("LogisticRegression", settings, grid)


class TestProbabilities:
    @pytest.mark.parametrize("classes", [2, 3])
    def test_of_a_decision_function_they_are_its_softmax(self, classes: int) -> None:
        X, y = blobs(classes=classes)
        made = EstimatorHead(RidgeClassifier()).fit(X, y)
        scores = RidgeClassifier().fit(X, y).decision_function(X)
        if classes == 2:
            np.testing.assert_allclose(made.predict_proba(X)[:, 1], 1 / (1 + np.exp(-scores)), atol=0.02)
        else:
            odds = np.exp(scores)
            np.testing.assert_allclose(
                made.predict_proba(X), odds / odds.sum(axis=1, keepdims=True), rtol=1e-5
            )
        assert np.array_equal(made.predict(X), RidgeClassifier().fit(X, y).predict(X))

    def test_none_is_0_so_that_a_temperature_makes_a_forest_honest(self) -> None:
        """A forest gives the true class of some images no tree at all: that must not decide."""
        rng = np.random.default_rng(0)
        y = np.arange(3000) % 3
        X = (rng.normal(0, 1, (3000, 4)) + np.eye(3)[y] @ rng.normal(0, 2, (3, 4))).astype(np.float32)
        forest = EstimatorHead(RandomForestClassifier(20, random_state=0)).fit(X[:1000], y[:1000])
        validation, test = (forest.predict_proba(X[start : start + 1000]) for start in (1000, 2000))
        assert validation.min() == pytest.approx(1 / 1003, rel=0.01)
        assert (forest.fitted_.predict_proba(X[1000:2000])[np.arange(1000), y[1000:2000]] == 0).any()
        scaled_test = scaled(test, temperature_of(validation, y[1000:2000]))
        right = (scaled_test.argmax(axis=1) == y[2000:]).mean()
        assert scaled_test.max(axis=1).mean() == pytest.approx(right, abs=0.02)

    def test_what_is_no_number_is_refused(self) -> None:
        """LabelSpreading divides by 0 where every training image is far."""
        X, y = blobs()
        fitted = head("LabelSpreading").make(0).fit(X, y)
        with pytest.raises(ValueError, match="LabelSpreading has no probabilities for 90 of 90 images"):
            fitted.predict_proba(X + 100)

    def test_the_classifier_given_is_left_unfitted(self) -> None:
        given = Perceptron()
        EstimatorHead(given).fit(*blobs())
        assert not hasattr(given, "coef_")


class TestTold:
    def test_a_warning_of_the_fit_is_a_remark(self) -> None:
        X, y = blobs()
        (remark,) = EstimatorHead(LogisticRegression(max_iter=1)).fit(X, y).remarks()
        assert "failed to converge" in remark
        assert "\n" not in remark

    def test_what_it_refuses_is_told_in_its_words(self) -> None:
        X, y = blobs()
        with pytest.raises(ValueError, match="MultinomialNB: Negative values in data") as told:
            head("MultinomialNB").make(0).fit(-X - 10, y)
        assert "\n" not in str(told.value)


class TestMemory:
    def test_a_kernel_of_all_pairs_is_reckoned(self) -> None:
        needed, reckoned = head("LabelSpreading").make(0).memory(45_000, 2816, 10)
        assert needed == 45_000**2 * 8 * 1.4
        assert reckoned == "1.4 x 45,000 x 45,000 pairs of images x 8 bytes"

    def test_copies_are_reckoned(self) -> None:
        needed, _ = head("LinearSVC", {"scale": "standard"}).make(0).memory(1_000, 100, 10)
        assert needed == 3.5 * 1_000 * 100 * 8

    def test_what_does_not_fit_is_refused_with_the_sum(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(budget, "available", lambda: 10**9)
        with pytest.raises(
            UserError, match=r"needs at least 22\.7 GB .*\(1\.4 x 45,000 .*\), 1\.0 GB is available; fewer"
        ):
            budget.require(
                *head("LabelSpreading").make(0).memory(45_000, 2816, 10), "the head", "fewer images"
            )
        budget.require(10**9, "", "what just fits", "")

    def test_a_containers_limit_counts(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "max").write_text("3000\n")
        (tmp_path / "current").write_text("1000\n")
        monkeypatch.setattr(budget, "CGROUPS", ((str(tmp_path / "max"), str(tmp_path / "current")),))
        assert budget.available() == 2000
        (tmp_path / "max").write_text("max\n")
        assert budget.available() > 2000
