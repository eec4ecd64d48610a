"""Every linear head is scikit-learn's optimum on standardised inputs, only sooner."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from models.heads.lbfgs import BLOCK, LogisticHead, SvmHead
from models.heads.moments import CentroidHead, LdaHead, RidgeHead
from tests.models.heads.test_heads import blobs


def hard(rows: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Correlated columns of very different scales, classes that overlap."""
    X, y = blobs(rows=rows, width=12)
    rng = np.random.default_rng(4)
    mix = rng.standard_normal((12, 12)) * np.logspace(-1, 3, 12)
    return ((X + rng.normal(0, 2, X.shape)) @ mix + 1).astype(np.float32), y


@pytest.mark.parametrize("C", [1e-4, 1e-2, 1.0])
def test_it_is_scikit_learns_optimum(C: float) -> None:
    X, y = hard()
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=C, tol=1e-8, max_iter=10_000)).fit(
        X.astype(np.float64), y
    )
    ours = LogisticHead(C=C, tol=1e-6).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=2e-3)


def test_it_is_scikit_learns_optimum_with_fewer_rows_than_columns() -> None:
    X, y = hard(rows=90)
    rng = np.random.default_rng(5)
    X = np.maximum(X @ rng.standard_normal((12, 300)) + 0.2 * rng.standard_normal((90, 300)), 0)
    X = X.astype(np.float32)
    for C in (1e-4, 1e-2, 1.0):
        theirs = make_pipeline(StandardScaler(), LogisticRegression(C=C, tol=1e-8, max_iter=10_000))
        proba = theirs.fit(X.astype(np.float64), y).predict_proba(X)
        np.testing.assert_allclose(LogisticHead(C=C, tol=1e-6).fit(X, y).predict_proba(X), proba, atol=1e-3)


def test_the_default_tolerance_is_close_to_the_optimum() -> None:
    X, y = hard()
    rough, exact = LogisticHead().fit(X, y), LogisticHead(tol=1e-7).fit(X, y)
    assert np.abs(rough.predict_proba(X) - exact.predict_proba(X)).mean() < 2e-3


def test_a_warm_start_ends_where_a_cold_one_does_but_sooner() -> None:
    X, y = hard()
    warm = LogisticHead(C=0.9, tol=1e-7, warm_start=True).fit(X, y)
    warm.set_params(C=1.0).fit(X, y)
    cold = LogisticHead(C=1.0, tol=1e-7).fit(X, y)
    np.testing.assert_allclose(warm.predict_proba(X), cold.predict_proba(X), atol=2e-3)
    assert warm.n_iter_ < cold.n_iter_


@pytest.mark.parametrize("head", [LogisticHead, SvmHead])
@pytest.mark.parametrize("tol", [1e-4, 1e-5, 1e-6])
def test_a_tolerance_that_float32_cannot_resolve_is_met_in_float64(head: Any, tol: float) -> None:
    X, y = hard(rows=3 * BLOCK + 7)
    fine, exact = head(C=0.1, tol=tol).fit(X, y), head(C=0.1, tol=1e-7).fit(X, y)
    np.testing.assert_allclose(
        fine.decision_function(X), exact.decision_function(X), atol=max(100 * tol, 1e-4)
    )


def test_a_tolerance_that_float64_cannot_resolve_is_reported() -> None:
    X, y = hard()
    with pytest.warns(ConvergenceWarning, match=r"before the gradient was below 1e-12"):
        LogisticHead(tol=1e-12).fit(X, y)


def test_a_line_search_that_float32_misleads_ends_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = hard()
    misled = LogisticHead()
    loss = misled._loss

    def noisy(logits: Any, truth: Any) -> Any:
        value, slope = loss(logits, truth)
        return value, slope if slope.dtype == np.float64 else -slope

    monkeypatch.setattr(misled, "_loss", noisy)
    expected = LogisticHead().fit(X, y).predict_proba(X)
    np.testing.assert_allclose(misled.fit(X, y).predict_proba(X), expected, atol=1e-2)


def test_too_few_iterations_are_told() -> None:
    X, y = hard()
    with pytest.warns(ConvergenceWarning, match="stopped after 2 iterations"):
        LogisticHead(max_iter=2).fit(X, y)


def test_a_line_search_that_finds_no_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = hard()
    stuck = LogisticHead()
    loss = stuck._loss

    def uphill(*given: Any) -> Any:
        value, slope = loss(*given)
        return value, -slope

    monkeypatch.setattr(stuck, "_loss", uphill)
    with pytest.warns(ConvergenceWarning, match=r"stopped after 0 iterations .*: abnormal"):
        stuck.fit(X, y)


@pytest.mark.parametrize("C", [1e-3, 1e-1])
def test_the_svm_is_linear_svc(C: float) -> None:
    X, y = hard()
    theirs = make_pipeline(
        StandardScaler(), LinearSVC(C=C, tol=1e-10, max_iter=100_000, intercept_scaling=1e4)
    )
    scores = theirs.fit(X.astype(np.float64), y).decision_function(X.astype(np.float64))
    np.testing.assert_allclose(SvmHead(C=C, tol=1e-7).fit(X, y).decision_function(X), scores, atol=5e-3)


@pytest.mark.parametrize("alpha", [1.0, 300.0])
def test_ridge_is_ridge_classifier(alpha: float) -> None:
    X, y = hard()
    theirs = make_pipeline(StandardScaler(), RidgeClassifier(alpha=alpha)).fit(X.astype(np.float64), y)
    scores = theirs.decision_function(X.astype(np.float64))
    np.testing.assert_allclose(RidgeHead(alpha).fit(X, y).decision_function(X), scores, atol=1e-3)


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 1.0])
def test_lda_is_scikit_learns(shrinkage: float) -> None:
    X, y = hard()
    y = np.where(np.arange(len(y)) % 4 == 0, 0, y)  # classes of different sizes
    solver = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
    theirs = make_pipeline(StandardScaler(), solver).fit(X.astype(np.float64), y)
    proba = theirs.predict_proba(X.astype(np.float64))
    np.testing.assert_allclose(LdaHead(shrinkage).fit(X, y).predict_proba(X), proba, atol=2e-3)


def test_centroid_is_nearest_centroid() -> None:
    X, y = hard()
    theirs = make_pipeline(StandardScaler(), NearestCentroid()).fit(X.astype(np.float64), y)
    assert np.array_equal(CentroidHead().fit(X, y).predict(X), theirs.predict(X.astype(np.float64)))


@pytest.mark.parametrize("head", [RidgeHead(), LdaHead()])
def test_a_sweep_gives_what_single_fits_give(head: RidgeHead | LdaHead) -> None:
    X, y = hard()
    name = head._swept
    for chosen, proba in head.sweep(
        X[:400], y[:400], (X[400:], y[400:]), {name: (1.0, 0.3, 0.0 if name[0] == "s" else 5.0)}
    ):
        alone = type(head)(**chosen).fit(X[:400], y[:400])
        np.testing.assert_allclose(proba, alone.predict_proba(X[400:]), atol=1e-6)
