"""Preconditioners for linear heads, so that L-BFGS takes few iterations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHRINKAGE = 0.3  # of the covariance of few rows; iterations differ little from 0.2 to 0.5
PANEL = 128  # columns of a basis converted to float64 at a time


class Coordinates(ABC):
    """A linear map ``P`` from coordinates to coefficients, both (d, k), for one penalty."""

    @property
    @abstractmethod
    def dtype(self) -> Any:
        """Dtype of the computation."""

    @abstractmethod
    def outward(self, moved: NDArray[np.float64]) -> NDArray[np.float64]:
        """Coefficients ``P v`` at coordinates ``v``."""

    @abstractmethod
    def slope(self, gradient: NDArray[np.float64]) -> NDArray[np.float64]:
        """The gradient by coordinates, ``P' g``, from the gradient ``g`` by coefficients."""

    @abstractmethod
    def inward(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Coordinates of coefficients, up to rounding; used for warm starts."""

    @abstractmethod
    def in_float64(self) -> Coordinates:
        """The same map, computed in float64."""


@dataclass(frozen=True)
class Cholesky(Coordinates):
    """``P = L'^-1`` with the lower Cholesky factor ``L`` of a Hessian (d, d), in Fortran order."""

    factor: NDArray[np.floating]

    @property
    def dtype(self) -> Any:
        return self.factor.dtype

    def outward(self, moved: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._solved(moved, "T")

    def slope(self, gradient: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._solved(gradient, "N")

    def inward(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(self.factor.T @ weights, np.float64)

    def in_float64(self) -> Cholesky:
        return Cholesky(self.factor.astype(np.float64))

    def _solved(self, right: NDArray[np.float64], trans: str) -> NDArray[np.float64]:
        from scipy.linalg import solve_triangular

        rounded = right.astype(self.dtype)  # otherwise the factor is copied
        solved = solve_triangular(self.factor, rounded, trans=trans, lower=True, check_finite=False)
        return np.asarray(solved, np.float64)


@dataclass(frozen=True)
class LowRank(Coordinates):
    """``P = H^-1/2`` for a Hessian with eigenvalues ``levels`` (r,) on a basis (d, r), else ``tail``."""

    basis: NDArray[np.float32]
    levels: NDArray[np.float64]
    tail: float
    precision: Any = np.float32

    @property
    def dtype(self) -> Any:
        return self.precision

    def outward(self, moved: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._scaled(moved, -0.5)

    def slope(self, gradient: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._scaled(gradient, -0.5)

    def inward(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._scaled(weights, 0.5)

    def in_float64(self) -> LowRank:
        return replace(self, precision=np.float64)

    def _scaled(self, vectors: NDArray[np.float64], power: float) -> NDArray[np.float64]:
        from scipy.linalg.blas import dgemm, sgemm

        gemm = sgemm if self.dtype == np.float32 else dgemm
        found: NDArray[np.float64] = vectors * self.tail**power
        rounded = vectors.astype(self.dtype)
        for start in range(0, len(self.levels), PANEL):
            part = slice(start, start + PANEL)
            basis = self.basis[:, part].astype(self.dtype, copy=False)
            more = self.levels[part] ** power - self.tail**power
            along = gemm(1, basis, rounded, trans_a=True) * more[:, None].astype(self.dtype)
            found += gemm(1, basis, along)
        return found


class Curvature(ABC):
    """An estimate of the Hessian of the loss by one class's coefficients, from a sample of the rows."""

    @abstractmethod
    def at(self, penalty: float) -> Coordinates:
        """The coordinates for the Hessian plus ``penalty`` times the identity."""


class FullCurvature(Curvature):
    """A matrix (d, d): ``curvature`` times the covariance of standardised rows (m, d)."""

    def __init__(self, rows: NDArray[np.float32], curvature: float) -> None:
        from scipy.linalg.blas import sgemm

        self._hessian = np.asarray(sgemm(curvature / len(rows), rows.T, rows.T, trans_b=True))

    def at(self, penalty: float) -> Cholesky:
        from scipy.linalg import LinAlgError, cholesky

        curved = self._hessian + penalty * np.eye(len(self._hessian), dtype=np.float32)
        try:
            lower = cholesky(curved, lower=True)
        except LinAlgError:  # tiny penalty and duplicate columns; affects speed only
            curved[np.diag_indices(len(curved))] += np.finfo(np.float32).eps * np.trace(curved)
            lower = cholesky(curved, lower=True)
        return Cholesky(np.asfortranarray(lower, np.float32))

    @staticmethod
    def memory(width: int) -> int:
        """Bytes of the matrix, two copies during factorisation, and one in float64."""
        return 20 * width**2


class LowRankCurvature(Curvature):
    """The covariance of standardised rows (m, d), m < d, shrunk towards the identity.

    The sample covariance of few rows is 0 in most directions and too large in the others (O. Ledoit and M.
    Wolf, A well-conditioned estimator for large-dimensional covariance matrices, 2004). Without rows it is
    the identity, since standardised columns have unit variance.
    """

    def __init__(self, rows: NDArray[np.float32], curvature: float) -> None:
        from scipy.linalg import eigh
        from scipy.linalg.blas import sgemm

        count, width = rows.shape
        self._basis, self._levels = np.zeros((width, 0), np.float32), np.zeros(0)
        self._tail = curvature * (SHRINKAGE if count else 1)
        if count:
            levels, vectors = eigh(
                sgemm(1, rows.T, rows.T, trans_a=True).astype(np.float64), overwrite_a=True
            )
            found = levels > np.finfo(np.float32).eps * count * levels[-1]
            vectors = vectors[:, found] / np.sqrt(levels[found])
            self._basis = np.asarray(sgemm(1, rows.T, vectors.astype(np.float32, order="F")))
            self._levels = self._tail + curvature * (1 - SHRINKAGE) / count * levels[found]

    def at(self, penalty: float) -> LowRank:
        return LowRank(self._basis, self._levels + penalty, self._tail + penalty)

    @staticmethod
    def rows(width: int, memory: int) -> int:
        """The largest number of rows for which the computation fits into ``memory`` bytes."""
        return min(memory // (8 * width), int(np.sqrt(memory / 24)))
