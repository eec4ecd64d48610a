"""Dimension reduction for fewer rows than columns, by the representer theorem."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

COLUMNS = 2_048  # standardised at a time
JITTER = 1e-9  # relative to the mean squared row length, so that duplicate rows can be factored


class RowSpace:
    """The space spanned by standardised rows.

    Coefficients that minimise a loss plus their squared norm are linear combinations of the rows (B.
    Schölkopf et al., A generalized representer theorem, 2001). So a problem with n rows and d > n columns
    can be solved in n coordinates, in which the rows are the Cholesky factor of their Gram matrix.

    Parameters
    ----------
    X : (n, d) float32; referenced, not copied.
    mean, scale : (d,) float64, mean and standard deviation of the columns.

    Attributes
    ----------
    rows : (n, n) float32, the standardised rows in these coordinates.
    """

    def __init__(self, X: NDArray[np.float32], mean: NDArray[np.float64], scale: NDArray[np.float64]) -> None:
        from scipy.linalg import cholesky
        from scipy.linalg.blas import dsyrk

        self._X, self._mean, self._scale = X, mean, scale
        products = np.zeros((len(X), len(X)), order="F")
        for part in self._parts():
            block = self._standardised(part).astype(np.float64)
            products = dsyrk(1, block.T, 1, products, trans=True, lower=True, overwrite_c=True)
        products[np.diag_indices(len(X))] += JITTER * np.trace(products) / len(X)
        self._factor = cholesky(products, lower=True, overwrite_a=True)
        self.rows = self._factor.astype(np.float32, order="C")

    def inward(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Transform coefficients (d, k) of standardised columns to these coordinates, (n, k)."""
        from scipy.linalg import solve_triangular

        scores = np.zeros((len(self._X), weights.shape[1]))
        for part in self._parts():
            scores += self._standardised(part) @ weights[part].astype(np.float32)
        return np.asarray(solve_triangular(self._factor, scores, lower=True, check_finite=False))

    def outward(self, inner: NDArray[np.float64]) -> NDArray[np.float64]:
        """Transform coordinates (n, k) back to coefficients (d, k) of standardised columns."""
        from scipy.linalg import solve_triangular

        shares = solve_triangular(self._factor, inner, trans="T", lower=True, check_finite=False)
        weights = np.empty((self._X.shape[1], inner.shape[1]))
        for part in self._parts():
            weights[part] = self._standardised(part).T.astype(np.float64) @ shares
        return weights

    def _parts(self) -> list[slice]:
        return [slice(start, start + COLUMNS) for start in range(0, self._X.shape[1], COLUMNS)]

    def _standardised(self, part: slice) -> NDArray[np.float32]:
        centred = self._X[:, part] - self._mean[part].astype(np.float32)
        return np.asarray(np.divide(centred, self._scale[part].astype(np.float32), out=centred, order="C"))
