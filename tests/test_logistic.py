"""The linear probe is scikit-learn's logistic regression on standardised inputs."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from models.logistic import LogisticHead
from tests.test_heads import blobs


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


def test_too_few_iterations_are_told() -> None:
    X, y = hard()
    with pytest.warns(ConvergenceWarning, match="stopped after 2 iterations"):
        LogisticHead(max_iter=2).fit(X, y)
