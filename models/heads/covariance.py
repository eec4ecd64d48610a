"""A covariance matrix, accumulated over rows and solved in place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PANEL = 3_072  # columns of products computed at a time
TILE = 512  # columns and rows copied at a time


class Covariance:
    """A symmetric matrix (d, d) of float64, the sum of products of rows, in ``8 d²`` bytes of memory.

    The upper triangle has the sums; Cholesky factors are computed in the lower one, so any number of systems
    is solved without a second matrix. Products are computed in float32, panel by panel.

    Attributes
    ----------
    diagonal : (d,) of the matrix.
    """

    def __init__(self, width: int) -> None:
        self._held = np.zeros((width, width), order="F")
        self.diagonal = np.zeros(width)

    @staticmethod
    def memory(width: int) -> tuple[int, str]:
        """Bytes of the matrix and a panel of products, and their derivation in words."""
        panel = min(width, PANEL)
        size = 8 * width**2 + 4 * width * panel
        return size, f"8 x {width:,} x {width:,} bytes of covariance + 4 x {width:,} x {panel:,} of products"

    def add(self, rows: NDArray[np.float32]) -> None:
        """Add the products of the columns of ``rows`` (m, d)."""
        from scipy.linalg.blas import sgemm, ssyrk  # and not NumPy's: see models/heads/lbfgs.py

        width = len(self._held)
        for start in range(0, width, PANEL):
            stop = min(start + PANEL, width)
            columns = np.ascontiguousarray(rows[:, start:stop])
            self._held[start:stop, start:stop] += ssyrk(1, columns.T)  # lower triangle: 0
            if start:
                self._held[:start, start:stop] += sgemm(1, rows[:, :start].T, columns.T, trans_b=True)
        self.diagonal = self._held.diagonal().copy()

    def subtract(self, low: NDArray[np.float64]) -> None:
        """Subtract ``low low'``, where ``low`` is (d, r) and r small."""
        width = len(self._held)
        for start in range(0, width, TILE):
            stop = min(start + TILE, width)
            self._held[:stop, start:stop] -= low[:stop] @ low[start:stop].T
        self.diagonal = self._held.diagonal().copy()

    def solve(
        self, factor: float, added: float, right: NDArray[np.float64], rounding: float
    ) -> NDArray[np.float64]:
        """Solve ``(factor A + added I) x = right``.

        Parameters
        ----------
        factor, added : such that the matrix is positive definite up to rounding errors.
        right : (d, k).
        rounding : added to the diagonal if rounding errors have made the matrix indefinite, as with fewer
            images than columns or with duplicate columns.

        Returns
        -------
        ndarray of shape (d, k), float64
        """
        from scipy.linalg import LinAlgError
        from scipy.linalg.lapack import dpotrs

        try:
            self._factorise(factor, added)
        except LinAlgError:
            self._factorise(factor, added + rounding)
        return np.asarray(dpotrs(self._held, right, lower=1)[0])

    def _factorise(self, factor: float, added: float) -> None:
        """Compute the Cholesky factor of ``factor A + added I`` in the lower triangle and the diagonal."""
        from scipy.linalg import LinAlgError
        from scipy.linalg.lapack import dpotrf

        width = len(self._held)
        for start in range(0, width, TILE):
            stop = min(start + TILE, width)
            square = np.triu(self._held[start:stop, start:stop], 1)
            self._held[start:stop, start:stop] = square + factor * square.T
            for below in range(stop, width, TILE):
                tile = self._held[start:stop, below : below + TILE]
                np.multiply(tile.T, factor, out=self._held[below : below + TILE, start:stop])
        self._held[np.diag_indices(width)] = factor * self.diagonal + added
        _, failed = dpotrf(self._held, lower=1, clean=0, overwrite_a=1)
        if failed:
            raise LinAlgError(f"the leading minor of order {failed} is not positive")
