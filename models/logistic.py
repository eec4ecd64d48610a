"""Multinomial logistic regression on standardised embeddings: the linear probe, made for a sweep."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

CURVATURE = 0.1  # typical p (1 - p) of a softmax; only the speed depends on it
SAMPLE = 10_000  # rows that estimate the covariance for the preconditioner; likewise


class LogisticHead(ClassifierMixin, BaseEstimator):
    """Minimises what ``make_pipeline(StandardScaler(), LogisticRegression(C=C))`` minimises.

    That is the sum of cross-entropies times ``C`` plus half the squared norm of the coefficients of
    the standardised inputs; intercepts are free. Three things make it quick on embeddings, where
    columns are many and correlated:

    - L-BFGS runs in coordinates in which the problem is nearly round: with the Cholesky factor
      ``L L' = CURVATURE * covariance + I / (n C)``, it moves ``L'W`` and not ``W`` (Nocedal and
      Wright, Numerical Optimization, 2006, section 5.1, on preconditioning).
    - Products stay in the inputs' float32, where scikit-learn's lbfgs converts to float64 at
      every iteration; sums and the line search are float64.
    - Standardising is folded into the coefficients, so the inputs are never copied. (A column whose
      mean is thousands of its deviations loses digits by that; embeddings have no such columns.)

    Parameters
    ----------
    C : inverse strength of regularisation, as in scikit-learn.
    tol : the solver stops when no coordinate of the gradient of the mean loss is larger.
    max_iter : of L-BFGS; reaching it warns with ``ConvergenceWarning``.
    warm_start : start where the last ``fit`` ended.

    Attributes
    ----------
    classes_ : (k,) class labels.
    coef_ : (k, d) float32, for inputs as they come (not standardised).
    intercept_ : (k,) float64.
    mean_, scale_ : (d,) float64, of the training inputs.
    n_iter_ : iterations of the last fit.
    """

    def __init__(
        self, C: float = 0.003, tol: float = 3e-4, max_iter: int = 500, warm_start: bool = False
    ) -> None:
        self.C = C
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start

    def fit(self, X: NDArray[np.float32], y: NDArray[Any]) -> LogisticHead:
        """Fit on ``X`` (n, d) and ``y`` (n,).

        Raises
        ------
        ValueError
            NaN or infinite inputs, one class only, or shapes that do not match.
        """
        from scipy.linalg import cholesky, solve_triangular
        from scipy.linalg.blas import sgemm
        from scipy.optimize import minimize

        start = self._standardised() if self.warm_start and hasattr(self, "coef_") else None
        X, y = validate_data(self, X, y, dtype=np.float32, order="C")
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        rows, width, classes = *X.shape, len(self.classes_)
        if classes < 2:
            raise ValueError("LogisticHead needs at least two classes; came one class")
        self.mean_ = X.mean(axis=0, dtype=np.float64)
        deviation = X.std(axis=0, dtype=np.float64)
        self.scale_ = np.where(deviation > 0, deviation, 1.0)
        penalty = 1 / (rows * self.C)
        factor = np.asfortranarray(cholesky(self._curvature(X, penalty), lower=True), np.float32)
        solving: dict[str, Any] = {"lower": True, "check_finite": False}
        truth = np.arange(rows), codes

        def unround(flat: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            moved, bias = np.split(flat.reshape(width + 1, classes), [width])
            return solve_triangular(factor, moved, trans="T", **solving), bias[0]

        # All products below go through SciPy's BLAS, as L-BFGS-B itself does: NumPy brings a
        # BLAS of its own, and the idle threads of the one slow down the other. X.T is X as
        # Fortran sees it, so nothing is copied.
        def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            weights, bias = unround(flat)
            raw = weights / self.scale_[:, None]
            logits = sgemm(1, raw.astype(np.float32), X.T, trans_a=True).T  # (n, k)
            logits += (bias - (self.mean_[:, None] * raw).sum(axis=0)).astype(np.float32)
            logits -= logits.max(axis=1, keepdims=True)
            likelihood = logits[truth].astype(np.float64)
            np.exp(logits, out=logits)
            total = logits.sum(axis=1, dtype=np.float64)
            loss = (np.log(total) - likelihood).mean() + penalty / 2 * (weights**2).sum()
            residual = logits
            residual /= total[:, None].astype(np.float32)
            residual[truth] -= 1
            residual /= rows
            slope = residual.sum(axis=0, dtype=np.float64)
            gradient = sgemm(1, X.T, residual.T, trans_b=True) - np.outer(self.mean_, slope)
            gradient = gradient / self.scale_[:, None] + penalty * weights
            rounded = solve_triangular(factor, gradient, **solving)
            return float(loss), np.concatenate([rounded, slope[None]]).ravel()

        first = np.zeros((width + 1, classes))
        if start is not None and start[0].shape == (width, classes):
            first[:width], first[width] = factor.T @ start[0], start[1]
        found = minimize(
            objective,
            first.ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": self.max_iter, "gtol": self.tol, "ftol": 0, "maxcor": 20},
        )
        if found.nit >= self.max_iter:
            warnings.warn(
                f"stopped after {found.nit} iterations before the gradient was below {self.tol:g}",
                ConvergenceWarning,
                stacklevel=2,
            )
        weights, bias = unround(found.x)
        raw = weights / self.scale_[:, None]
        self.coef_ = raw.T.astype(np.float32)
        self.intercept_ = bias - self.mean_ @ raw
        self.n_iter_ = int(found.nit)
        return self

    def decision_function(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Logits, ``(n, k)`` float64."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, order="C", reset=False)
        return np.asarray((X @ self.coef_.T).astype(np.float64) + self.intercept_)

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Class probabilities, ``(n, k)`` float64; columns follow ``classes_``."""
        logits = self.decision_function(X)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))

    def predict(self, X: NDArray[np.float32]) -> NDArray[Any]:
        """The most probable class of each row, ``(n,)``."""
        return np.asarray(self.classes_[self.decision_function(X).argmax(axis=1)])

    def _curvature(self, X: NDArray[np.float32], penalty: float) -> NDArray[np.float32]:
        """Roughly the Hessian of one class's coefficients, (d, d), from a sample of the rows."""
        sample = X[:: -(-len(X) // SAMPLE)] - self.mean_.astype(np.float32)
        sample /= self.scale_.astype(np.float32)
        curvature = CURVATURE / len(sample) * (sample.T @ sample)
        curvature[np.diag_indices(len(curvature))] += penalty
        return np.asarray(curvature)

    def _standardised(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The last fit's coefficients and intercepts in terms of its standardised inputs."""
        raw = self.coef_.T.astype(np.float64)
        return raw * self.scale_[:, None], self.intercept_ + self.mean_ @ raw
