"""Linear heads in closed form, from class counts, means and covariances."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.heads.base import Candidate, OnEpoch, Watched
from models.heads.blocks import Rows, in_blocks
from models.heads.covariance import Covariance
from models.heads.linear import LinearHead, class_sums, class_weights
from models.heads.parameters import CLASS_WEIGHT, check, positive, share

TINY = 1e-9  # added to the unit variances of standardised columns, for constant columns


@dataclass(frozen=True)
class Moments:
    """Sufficient statistics of standardised inputs ``Z`` (n, d).

    Attributes
    ----------
    counts : (k,) number of images of each class.
    sums : (d, k) float64, sum of the rows of each class.
    gram : ``Z' W Z``; each head subtracts what its class means explain.
    weights : (k,) class weights, the diagonal of ``W``.
    rounding : bound of the rounding error of ``gram``, whose products were summed in float32.
    """

    counts: NDArray[np.float64]
    sums: NDArray[np.float64]
    gram: Covariance
    weights: NDArray[np.float64]
    rounding: float


class _MomentsHead(LinearHead, ABC):
    """A head fitted in one pass over the inputs, plus one Cholesky solve per value of the swept parameter.

    An eigendecomposition, from which the solutions for all values follow, takes longer than the solves for
    the complete grid (``benchmarks/heads.py``).
    """

    _swept: str  # name of the regularisation parameter
    class_weight: str | Mapping[Any, float] | None = None

    @abstractmethod
    def check(self) -> None:
        """Raise ``ValueError`` for the first invalid parameter."""

    @abstractmethod
    def _centre(self, moments: Moments) -> None:
        """Subtract from ``gram``, in place, what the means explain."""

    @abstractmethod
    def _solve(self, moments: Moments) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights (d, k) and biases (k,) for standardised inputs."""

    def fit(self, X: Rows, y: NDArray[Any]) -> Any:
        """Fit on ``X`` (n, d) and ``y`` (n,).

        Raises
        ------
        ValueError
            NaN or infinite inputs, one class only, shapes that do not match, or a parameter out of
            its range.
        """
        self.check()
        X, codes = self._checked(X, y)
        self._fold(*self._solve(self._moments(X, codes)))
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
        """As :meth:`BaseHead.sweep`, with one pass over the inputs for all values."""
        if set(grid) != {self._swept}:
            yield from super().sweep(X, y, watched, grid, on_epoch)
            return
        X, codes = self._checked(X, y)
        moments = self._moments(X, codes)
        for value in grid[self._swept]:
            self.set_params(**{self._swept: value}).check()
            self._fold(*self._solve(moments))
            self._settle(X, codes)
            yield {self._swept: value}, self.proba_of(watched[0])

    def memory_in_blocks(self, rows: int, width: int, classes: int) -> tuple[int, str]:
        """Bytes of the covariance matrix."""
        return Covariance.memory(width)

    def _moments(self, X: Rows, codes: NDArray[np.int64]) -> Moments:
        from scipy.linalg.blas import sgemm

        width, classes = X.shape[1], len(self.classes_)
        gram, sums = Covariance(width), np.zeros((width, classes))
        mean, scale = self.mean_.astype(np.float32), self.scale_.astype(np.float32)
        one_hot = np.eye(classes, dtype=np.float32)
        weights = class_weights(codes, self.classes_, self.class_weight)
        for rows, values in in_blocks(X):
            block = values - mean
            block /= scale
            sums += sgemm(1, block.T, one_hot[codes[rows]])
            if weights is not None:
                block *= np.sqrt(weights[codes[rows], None]).astype(np.float32)
            gram.add(block)
        counts = np.bincount(codes, minlength=classes).astype(float)
        rounding = float(np.finfo(np.float32).eps * gram.diagonal.sum())
        moments = Moments(counts, sums, gram, np.ones(classes) if weights is None else weights, rounding)
        self._centre(moments)
        return moments


class PriorHead(LinearHead):
    """Class frequencies of the training images, like ``DummyClassifier(strategy="prior")``."""

    def fit(self, X: Rows, y: NDArray[Any]) -> PriorHead:
        """Count the classes in ``y`` (n,). Raises as :meth:`CentroidHead.fit`."""
        X, codes = self._checked(X, y)
        counts = np.bincount(codes)
        self._fold(np.zeros((X.shape[1], len(counts))), np.log(counts / len(codes)))
        return self

    def memory_in_blocks(self, rows: int, width: int, classes: int) -> tuple[int, str]:
        """Bytes of the coefficients."""
        return means_of(width, classes)


class CentroidHead(LinearHead):
    """Nearest class mean of standardised embeddings.

    Squared distances to the means are linear in the embedding up to a term that is equal for all classes:
    ``|z - m|² = |z|² - 2 m z + |m|²``. Probabilities are the softmax of the negative halves, at the
    temperature that fits the training images best.
    """

    def fit(self, X: Rows, y: NDArray[Any]) -> CentroidHead:
        """Fit on ``X`` (n, d) and ``y`` (n,).

        Raises
        ------
        ValueError
            NaN or infinite inputs, one class only, or shapes that do not match.
        """
        X, codes = self._checked(X, y)
        sums = class_sums(X, codes, len(self.classes_))
        means = (sums / np.bincount(codes)[:, None] - self.mean_) / self.scale_
        self._fold(means.T, -(means**2).sum(axis=1) / 2)
        self._calibrate(X, codes)
        return self

    def memory_in_blocks(self, rows: int, width: int, classes: int) -> tuple[int, str]:
        """Bytes of the class means."""
        return means_of(width, classes)


class RidgeHead(_MomentsHead):
    """Ridge regression on targets of 1 and -1.

    The coefficients equal those of ``make_pipeline(StandardScaler(), RidgeClassifier(alpha=alpha))`` (for two
    classes: their difference does). Probabilities are the softmax of the scores at the temperature that fits
    the training images best.

    Parameters
    ----------
    alpha : strength of the penalty, as in scikit-learn.
    class_weight : as in scikit-learn; ``balanced`` gives all classes the same total weight.
    """

    _swept = "alpha"

    def __init__(self, alpha: float = 1000.0, class_weight: str | Mapping[Any, float] | None = None) -> None:
        self.alpha = alpha
        self.class_weight = class_weight

    def check(self) -> None:
        """Raise ``ValueError`` for the first invalid parameter."""
        check(self, alpha=positive(), class_weight=CLASS_WEIGHT)

    def _centre(self, moments: Moments) -> None:
        total, images = (moments.sums * moments.weights).sum(axis=1), moments.weights @ moments.counts
        moments.gram.subtract(total[:, None] / np.sqrt(images))

    def _solve(self, moments: Moments) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        # Targets are 2 * one-hot - 1; centring removes the constant.
        images = moments.weights @ moments.counts
        share = moments.weights * moments.counts / images
        sums = moments.sums * moments.weights
        total = sums.sum(axis=1)
        right = 2 * (sums - np.outer(total, share))
        weights = moments.gram.solve(1, self.alpha, right, moments.rounding)
        return weights, 2 * share - 1 - total / images @ weights

    def _settle(self, X: Rows, codes: NDArray[np.int64]) -> None:
        self._calibrate(X, codes)


class LdaHead(_MomentsHead):
    """Linear discriminant analysis with a shrunk covariance matrix.

    Equals ``make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr",
    shrinkage=shrinkage))``.

    Parameters
    ----------
    shrinkage : from 0 (the empirical covariance) to 1 (its mean variance times the identity).
    """

    _swept = "shrinkage"

    def __init__(self, shrinkage: float = 0.01) -> None:
        self.shrinkage = shrinkage

    def check(self) -> None:
        """Raise ``ValueError`` for the first invalid parameter."""
        check(self, shrinkage=share())

    def _centre(self, moments: Moments) -> None:
        moments.gram.subtract(moments.sums / np.sqrt(moments.counts))

    def _solve(self, moments: Moments) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        means, images = moments.sums / moments.counts, moments.counts.sum()
        level = moments.gram.diagonal.mean() / images
        added = self.shrinkage * level + TINY
        weights = moments.gram.solve((1 - self.shrinkage) / images, added, means, moments.rounding / images)
        return weights, np.log(moments.counts / images) - 0.5 * (means * weights).sum(axis=0)


def means_of(width: int, classes: int) -> tuple[int, str]:
    """Bytes of a float64 vector per class, and their derivation in words."""
    return 8 * width * classes, f"8 x {width:,} values x {classes:,} classes"
