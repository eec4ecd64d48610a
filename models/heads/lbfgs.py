"""Linear heads fitted by L-BFGS: logistic regression and the linear SVM."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from models.heads.base import Candidate, OnEpoch, Watched
from models.heads.blocks import ROWS, Blocks, Rows, in_blocks, sample, taken
from models.heads.linear import LinearHead, class_weights
from models.heads.parameters import CLASS_WEIGHT, FLAG, check, number, positive, whole
from models.heads.preconditioner import Curvature, FullCurvature, LowRankCurvature
from models.heads.rowspace import RowSpace

STRENGTH = (1e-30, 1e30)  # range of C in which the penalty, 1 / C, is neither 0 nor infinite in float32
SAMPLE = 10_000  # rows that estimate the covariance for the preconditioner
FLOAT32_TOL = 3e-4  # near the minimum the loss changes by the squared gradient: 1e-7, float32's epsilon
CORRECTIONS = 20  # pairs of vectors stored by L-BFGS
VECTORS = 2 * CORRECTIONS + 15  # vectors of the size of the coefficients in L-BFGS and the objective
BLOCK = 1_024  # rows converted to float64 at a time


@dataclass(frozen=True)
class _Inputs:
    """Rows (n, w) with the mean and scale (w,) that standardise them, in ``space`` if that is smaller."""

    X: Rows
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    space: RowSpace | None = None


class _IterativeHead(LinearHead, ABC):
    """Minimises ``C`` times a sum of losses plus half the squared norm of the coefficients.

    Coefficients are those of the standardised inputs; intercepts are not penalised. Three measures make it
    fast on embeddings, which have many correlated columns:

    - L-BFGS is preconditioned: with the Cholesky factor ``L L' = curvature * covariance + I / (n C)`` it
      optimises ``L'W`` instead of ``W`` (Nocedal and Wright, Numerical Optimization, 2006, section 5.1). If
      a matrix of all columns does not fit into memory out of core, the covariance has low rank.
    - Products are computed in the inputs' float32, whereas scikit-learn's lbfgs converts to float64 at every
      iteration; the line search uses float64. When float32 is not accurate enough (``tol`` below 3e-4, or
      a failing line search), the last iterations use float64 throughout, on blocks of rows, so that the
      optimum does not depend on the BLAS kernel.
    - Standardisation is folded into the coefficients, so inputs are never copied. With fewer rows than
      columns the problem is transformed to as many columns as rows (:class:`models.heads.rowspace.RowSpace`).

    Loss and gradient are sums over blocks of rows, in memory or on disk; each step of the line search takes
    one pass.

    Parameters
    ----------
    C : inverse strength of regularisation, as in scikit-learn.
    tol : the solver stops when no component of the gradient of the mean loss is larger. Below 3e-4 it takes
        iterations in float64, which are several times slower; below 3e-8 it cannot be reached.
    max_iter : iterations of L-BFGS; stopping before ``tol`` is reached warns with ``ConvergenceWarning``.
    warm_start : start from the solution of the last ``fit``.
    class_weight : as in scikit-learn; ``balanced`` gives all classes the same total weight.

    Attributes
    ----------
    n_iter_ : iterations of the last fit.
    """

    _curvature: float  # typical second derivative of the loss; affects speed only

    def __init__(
        self,
        C: float = 0.003,
        tol: float = 3e-4,
        max_iter: int = 500,
        warm_start: bool = False,
        class_weight: str | Mapping[Any, float] | None = None,
    ) -> None:
        self.C = C
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.class_weight = class_weight

    @abstractmethod
    def _loss(
        self, logits: NDArray[np.floating], truth: tuple[NDArray[Any], ...]
    ) -> tuple[NDArray[np.float64], NDArray[np.floating]]:
        """The loss of each row of logits (m, k), and its gradient (m, k); may overwrite ``logits``."""

    def fit(self, X: Rows, y: NDArray[Any]) -> Any:
        """Fit on ``X`` (n, d) and ``y`` (n,).

        Raises
        ------
        ValueError
            NaN or infinite inputs, one class only, shapes that do not match, or a parameter out of
            its range.
        """
        self.check()
        start = self._unfolded() if self.warm_start and hasattr(self, "coef_") else None
        X, codes = self._checked(X, y)
        inputs = self._inputs(X)
        self._descend(inputs, codes, self._curved(inputs), start)
        self._settle(X, codes)
        return self

    def sweep(
        self,
        X: Rows,
        y: NDArray[Any],
        watched: Watched,
        grid: Mapping[str, Sequence[Any]],
        on_epoch: OnEpoch | None = None,
    ) -> Iterator[Candidate]:
        """As :meth:`BaseHead.sweep`; each fit starts from the previous solution."""
        if set(grid) != {"C"}:
            yield from super().sweep(X, y, watched, grid, on_epoch)
            return
        self.check()
        X, codes = self._checked(X, y)
        inputs, start = self._inputs(X), None
        curved = self._curved(inputs)
        for C in grid["C"]:
            self.set_params(C=C).check()
            self._descend(inputs, codes, curved, start)
            self._settle(X, codes)
            yield {"C": C}, self.proba_of(watched[0])
            start = self._unfolded()

    def memory_in_blocks(self, rows: int, width: int, classes: int) -> tuple[int, str]:
        """Bytes of the vectors of L-BFGS."""
        return (
            8 * VECTORS * (width + 1) * classes,
            f"{VECTORS} x {width + 1:,} coefficients x {classes:,} classes x 8 bytes",
        )

    def _inputs(self, X: Rows) -> _Inputs:
        if isinstance(X, Blocks) or len(X) >= X.shape[1]:
            return _Inputs(X, self.mean_, self.scale_)
        space = RowSpace(X, self.mean_, self.scale_)
        return _Inputs(space.rows, np.zeros(len(X)), np.ones(len(X)), space)

    def _descend(
        self,
        inputs: _Inputs,
        codes: NDArray[np.int64],
        curved: Curvature,
        start: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
    ) -> None:
        from scipy.optimize import minimize

        mean, scale = inputs.mean, inputs.scale
        rows, width, classes = *inputs.X.shape, len(self.classes_)
        weights_of = class_weights(codes, self.classes_, self.class_weight)
        penalty = 1 / (rows * self.C)
        coordinates = curved.at(penalty)

        def unround(flat: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            moved, bias = np.split(flat.reshape(width + 1, classes), [width])
            return coordinates.outward(moved), bias[0]

        def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            weights, bias = unround(flat)
            raw = weights / scale[:, None]
            shift = bias - (mean[:, None] * raw).sum(axis=0)
            raw = raw.astype(coordinates.dtype)
            loss, gradient, slope = self._sums(inputs.X, codes, raw, shift, weights_of)
            gradient = (gradient - np.outer(mean, slope)) / scale[:, None] / rows
            gradient += penalty * weights
            loss = loss / rows + penalty / 2 * float((weights**2).sum())
            return loss, np.concatenate([coordinates.slope(gradient), slope[None] / rows]).ravel()

        def descend(flat: NDArray[np.float64], tol: float, iterations: int) -> Any:
            options = {"maxiter": iterations, "gtol": tol, "ftol": 0, "maxcor": CORRECTIONS}
            return minimize(objective, flat, jac=True, method="L-BFGS-B", options=options)

        first = np.zeros((width + 1, classes))
        if start is not None and start[0].shape == (len(self.mean_), classes):
            weights = start[0] if inputs.space is None else inputs.space.inward(start[0])
            first[:width], first[width] = coordinates.inward(weights), start[1]
        found = descend(first.ravel(), max(self.tol, FLOAT32_TOL), self.max_iter)
        self.n_iter_ = int(found.nit)
        if np.abs(found.jac).max() > self.tol and self.n_iter_ < self.max_iter:
            coordinates = coordinates.in_float64()  # and with them all products
            found = descend(found.x, self.tol, self.max_iter - self.n_iter_)
            self.n_iter_ += int(found.nit)
        if np.abs(found.jac).max() > self.tol:  # max_iter reached, or the line search failed
            warnings.warn(
                f"stopped after {self.n_iter_} iterations before the gradient was below {self.tol:g}: "
                f"{found.message.lower()}",
                ConvergenceWarning,
                stacklevel=2,
            )
        weights, bias = unround(found.x)
        self._fold(weights if inputs.space is None else inputs.space.outward(weights), bias)

    def _sums(
        self,
        X: Rows,
        codes: NDArray[np.int64],
        raw: NDArray[np.floating],
        shift: NDArray[np.float64],
        weights_of: NDArray[np.float64] | None,
    ) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        """The loss of ``X @ raw + shift`` and its gradients by ``raw`` (d, k) and ``shift`` (k,), summed.

        Computed in the precision of ``raw``. Products use SciPy's BLAS, as L-BFGS-B does: idle threads of
        NumPy's separate BLAS would slow it down. Transposed arrays are in Fortran order, so float32 inputs
        are not copied.

        Parameters
        ----------
        X, codes : (n, d) and (n,) class numbers.
        raw, shift : coefficients (d, k) and intercepts (k,) for raw inputs.
        weights_of : (k,) class weights; None: all 1.
        """
        from scipy.linalg.blas import dgemm, sgemm

        gemm, most = (sgemm, ROWS) if raw.dtype == np.float32 else (dgemm, BLOCK)
        loss, gradient, slope = 0.0, np.zeros(raw.shape), np.zeros(raw.shape[1])
        for rows, values in in_blocks(X, most):
            block, truth = values.astype(raw.dtype, copy=False), codes[rows]
            logits = gemm(1, raw, block.T, trans_a=True).T  # (m, k)
            logits += shift.astype(raw.dtype)
            part, residual = self._loss(logits, (np.arange(len(block)), truth))
            if weights_of is not None:
                part *= weights_of[truth]
                residual *= weights_of[truth, None].astype(raw.dtype)
            loss += float(part.sum())
            gradient += gemm(1, block.T, residual.T, trans_b=True)
            slope += residual.sum(axis=0, dtype=np.float64)
        return loss, gradient, slope

    def check(self) -> None:
        """Raise ``ValueError`` for the first invalid parameter."""
        check(
            self,
            C=number(*STRENGTH),
            tol=positive(),
            max_iter=whole(1),
            warm_start=FLAG,
            class_weight=CLASS_WEIGHT,
        )

    def _curved(self, inputs: _Inputs) -> Curvature:
        """The curvature of the loss from a sample of the rows; of low rank if a matrix does not fit."""
        X, width = inputs.X, inputs.X.shape[1]
        if not isinstance(X, Blocks):
            some = X[:: -(-len(X) // SAMPLE)]
            return FullCurvature(self._standardised(some, inputs), self._curvature)
        left = max(X.memory - self.memory_in_blocks(*X.shape, len(self.classes_))[0], 0) // 2
        full = FullCurvature.memory(width) + 4 * width * min(len(X), 4 * width) <= left
        most = min(len(X), 4 * width) if full else min(len(X), LowRankCurvature.rows(width, left))
        some = taken(sample(X), most)
        kind = FullCurvature if full else LowRankCurvature
        return kind(self._standardised(some, inputs), self._curvature)

    @staticmethod
    def _standardised(some: NDArray[np.float32], inputs: _Inputs) -> NDArray[np.float32]:
        some = some - inputs.mean.astype(np.float32)
        some /= inputs.scale.astype(np.float32)
        return some


class LogisticHead(_IterativeHead):
    """Multinomial logistic regression: the linear probe.

    Has the objective of ``make_pipeline(StandardScaler(), LogisticRegression(C=C))``. For parameters and
    attributes see :class:`_IterativeHead` and :class:`LinearHead`.
    """

    _curvature = 0.1  # p (1 - p) of a softmax

    def _loss(
        self, logits: NDArray[np.floating], truth: tuple[NDArray[Any], ...]
    ) -> tuple[NDArray[np.float64], NDArray[np.floating]]:
        logits -= logits.max(axis=1, keepdims=True)
        likelihood = logits[truth].astype(np.float64)
        np.exp(logits, out=logits)
        total = logits.sum(axis=1, dtype=np.float64)
        logits /= total[:, None].astype(logits.dtype)
        logits[truth] -= 1
        return np.log(total) - likelihood, logits


class SvmHead(_IterativeHead):
    """Linear support vector machine, one-vs-rest, with squared hinge loss.

    Has the objective of ``make_pipeline(StandardScaler(), LinearSVC(C=C))``, except that intercepts are not
    penalised. Probabilities are the softmax of the scores at the temperature that fits the training images
    best. For parameters and attributes see :class:`_IterativeHead` and :class:`LinearHead`.
    """

    _curvature = 0.5  # twice the share of images inside the margin

    def _settle(self, X: Rows, codes: NDArray[np.int64]) -> None:
        self._calibrate(X, codes)

    def _loss(
        self, logits: NDArray[np.floating], truth: tuple[NDArray[Any], ...]
    ) -> tuple[NDArray[np.float64], NDArray[np.floating]]:
        logits[truth] *= -1  # minus the margin of every class
        logits += 1
        np.maximum(logits, 0, out=logits)  # the shortfall from a margin of 1
        loss = np.einsum("nk,nk->n", logits, logits, dtype=np.float64)
        logits *= 2
        logits[truth] *= -1
        return loss, logits
