"""Linear heads that follow from counts, means and covariances alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import validate_data

from models.heads.base import Candidate, OnEpoch, Watched
from models.heads.linear import BLOCK, LinearHead, class_weights, sample
from models.heads.parameters import CLASS_WEIGHT, check, positive, share
from models.temperature import softmax

TINY = 1e-9  # variance of a column that has none, against 1 of the others


@dataclass(frozen=True)
class Moments:
    """All that both heads need to know of standardised inputs ``Z`` (n, d); 8 d² bytes.

    Attributes
    ----------
    counts : (k,) images of each class.
    sums : (d, k) float64, sums of the rows of each class.
    gram : (d, d) float64, ``Z' W Z``; the upper triangle.
    weights : (k,) what each image of a class counts in ``gram``: the diagonal of ``W``.
    """

    counts: NDArray[np.float64]
    sums: NDArray[np.float64]
    gram: NDArray[np.float64]
    weights: NDArray[np.float64]

    @property
    def rounding(self) -> float:
        """How far off ``gram`` may be, as a matrix, since its products were summed in float32."""
        return float(np.finfo(np.float32).eps * np.trace(self.gram))


class _MomentsHead(LinearHead, ABC):
    """Fits from one pass over the inputs; every further value of the swept parameter is one solve.

    A Cholesky solve for each value: one eigendecomposition, from which all values would follow,
    costs more than all of the grid's together (``benchmarks/heads.py`` shows it).
    """

    _swept: str  # the name of the regularising parameter
    class_weight: str | Mapping[Any, float] | None = None

    @abstractmethod
    def check(self) -> None:
        """Raise ``ValueError`` if a parameter is not what it may be."""

    @abstractmethod
    def _solve(self, moments: Moments) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights (d, k) and biases (k,) for standardised inputs."""

    def fit(self, X: NDArray[np.float32], y: NDArray[Any]) -> Any:
        """Fit on ``X`` (n, d) and ``y`` (n,).

        Raises
        ------
        ValueError
            NaN or infinite inputs, one class only, shapes that do not match, or a parameter out of
            its range.
        """
        self.check()
        X, codes = self._checked(X, y)
        self._finish(self._moments(X, codes), sample(X, codes))
        return self

    def sweep(
        self,
        X: NDArray[np.float32],
        y: NDArray[Any],
        watched: Watched,
        grid: Mapping[str, Sequence[Any]],
        on_epoch: OnEpoch | None = None,
    ) -> Iterator[Candidate]:
        """Each value of the grid with the probabilities it gives the validation rows; one pass for all."""
        if set(grid) != {self._swept}:
            yield from super().sweep(X, y, watched, grid, on_epoch)
            return
        X, codes = self._checked(X, y)
        X_val = validate_data(self, watched[0], dtype=np.float32, order="C", reset=False)
        moments, own = self._moments(X, codes), sample(X, codes)
        for value in grid[self._swept]:
            self.set_params(**{self._swept: value}).check()
            self._finish(moments, own)
            yield {self._swept: value}, softmax(self._scores(X_val) / self.temperature_)

    def _finish(self, moments: Moments, own: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
        self._fold(*self._solve(moments))

    def _moments(self, X: NDArray[np.float32], codes: NDArray[np.int64]) -> Moments:
        from scipy.linalg.blas import sgemm, ssyrk

        width, classes = X.shape[1], len(self.classes_)
        gram, sums = np.zeros((width, width), order="F"), np.zeros((width, classes))
        mean, scale = self.mean_.astype(np.float32), self.scale_.astype(np.float32)
        one_hot = np.eye(classes, dtype=np.float32)
        weights = class_weights(codes, self.classes_, self.class_weight)
        for start in range(0, len(X), BLOCK):
            block = X[start : start + BLOCK] - mean
            block /= scale
            sums += sgemm(1, block.T, one_hot[codes[start : start + BLOCK]])
            if weights is not None:
                block *= np.sqrt(weights[codes[start : start + BLOCK], None]).astype(np.float32)
            gram += ssyrk(1, block.T)
        counts = np.bincount(codes, minlength=classes).astype(float)
        return Moments(counts, sums, gram, np.ones(classes) if weights is None else weights)


class PriorHead(LinearHead):
    """Every class as likely as in training, whatever the embedding: scikit-learn's ``prior`` dummy."""

    def fit(self, X: NDArray[np.float32], y: NDArray[Any]) -> PriorHead:
        """Count the classes of ``y`` (n,); raises what every head does."""
        X, codes = self._checked(X, y)
        counts = np.bincount(codes)
        self._fold(np.zeros((X.shape[1], len(counts))), np.log(counts / len(codes)))
        return self


class CentroidHead(LinearHead):
    """The class whose mean, of standardised embeddings, is nearest.

    A distance to means is linear in the embedding: ``|z - m|²`` is ``-2 m z + |m|²`` and something
    all classes share. Probabilities are the softmax of that at the temperature that fits the
    training images best.
    """

    def fit(self, X: NDArray[np.float32], y: NDArray[Any]) -> CentroidHead:
        """Fit on ``X`` (n, d) and ``y`` (n,).

        Raises
        ------
        ValueError
            NaN or infinite inputs, one class only, or shapes that do not match.
        """
        X, codes = self._checked(X, y)
        sums = np.stack(
            [X[codes == code].sum(axis=0, dtype=np.float64) for code in range(len(self.classes_))]
        )
        means = (sums / np.bincount(codes)[:, None] - self.mean_) / self.scale_
        self._fold(means.T, -(means**2).sum(axis=1) / 2)
        self._calibrate(sample(X, codes))
        return self


class RidgeHead(_MomentsHead):
    """Least squares on targets of 1 and -1 with a squared penalty.

    Its coefficients are those of ``make_pipeline(StandardScaler(), RidgeClassifier(alpha=alpha))``
    (with two classes: of their difference). Probabilities are the softmax of the scores at the
    temperature that fits the training images best.

    Parameters
    ----------
    alpha : strength of the penalty, as in scikit-learn.
    class_weight : as in scikit-learn; ``balanced``: each class counts as much as any other.
    """

    _swept = "alpha"

    def __init__(self, alpha: float = 1000.0, class_weight: str | Mapping[Any, float] | None = None) -> None:
        self.alpha = alpha
        self.class_weight = class_weight

    def check(self) -> None:
        """Raise ``ValueError`` if a parameter is not what it may be."""
        check(self, alpha=positive(), class_weight=CLASS_WEIGHT)

    def _solve(self, moments: Moments) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        # Targets are 2 * one-hot - 1. With both sides centred, the 1 drops out.
        share = moments.weights * moments.counts
        share = share / share.sum()
        sums = moments.sums * moments.weights
        total, images = sums.sum(axis=1), (moments.weights * moments.counts).sum()
        gram = moments.gram - np.outer(total, total / images)
        weights = _solved(gram, self.alpha, 2 * (sums - np.outer(total, share)), moments.rounding)
        return weights, 2 * share - 1 - total / images @ weights

    def _finish(self, moments: Moments, own: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
        super()._finish(moments, own)
        self._calibrate(own)


class LdaHead(_MomentsHead):
    """Linear discriminant analysis: one Gaussian a class, all with one shrunk covariance.

    Equals ``make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr",
    shrinkage=shrinkage))``.

    Parameters
    ----------
    shrinkage : from 0 (the covariance as it is) to 1 (its mean variance in every direction).
    """

    _swept = "shrinkage"

    def __init__(self, shrinkage: float = 0.01) -> None:
        self.shrinkage = shrinkage

    def check(self) -> None:
        """Raise ``ValueError`` if a parameter is not what it may be."""
        check(self, shrinkage=share())

    def _solve(self, moments: Moments) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        means = moments.sums / moments.counts
        within = moments.gram - (means @ (means * moments.counts).T).T
        within /= moments.counts.sum()
        level = np.trace(within) / len(within)
        within *= 1 - self.shrinkage
        added = self.shrinkage * level + TINY
        weights = _solved(within, added, means, moments.rounding / moments.counts.sum())
        share = moments.counts / moments.counts.sum()
        return weights, np.log(share) - 0.5 * (means * weights).sum(axis=0)


def _solved(
    upper: NDArray[np.float64], added: float, right: NDArray[np.float64], rounding: float
) -> NDArray[np.float64]:
    """``(A + added I) x = right`` for a positive definite ``A`` whose upper triangle is given.

    Where rounding has made it indefinite (fewer images than columns, or columns that copy each
    other), the diagonal is raised by as much.
    """
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    def factor(raised: float) -> Any:
        matrix = upper.copy(order="K")
        matrix[np.diag_indices(len(matrix))] += raised
        return cho_factor(matrix, lower=False, overwrite_a=True, check_finite=False)

    try:
        factored = factor(added)
    except LinAlgError:
        factored = factor(added + rounding)
    return np.asarray(cho_solve(factored, right, check_finite=False))
