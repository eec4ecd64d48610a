"""The base class of linear heads, and statistics of columns and classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from models.heads.base import BaseHead
from models.heads.blocks import Blocks, Rows, evenly, in_blocks, sample, validated
from models.temperature import fit_temperature, softmax


def centre_and_scale(X: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each column, ``(d,)`` float64 each; the latter is 1 if constant.

    Computed in one pass over blocks (T. F. Chan, G. H. Golub and R. J. LeVeque, Updating formulae and a
    pairwise algorithm for computing sample variances, 1979); NumPy's ``std`` would copy all rows to float64.
    """
    if isinstance(X, Blocks) and X.standard is not None:
        return X.standard
    mean, square, seen = np.zeros(X.shape[1]), np.zeros(X.shape[1]), 0
    for _, block in in_blocks(X):
        own = block.mean(axis=0, dtype=np.float64)
        around = block - own.astype(np.float32)
        step, seen = own - mean, seen + len(block)
        share = len(block) / seen
        square += np.einsum("nd,nd->d", around, around) + step**2 * (share * (seen - len(block)))
        mean += step * share
    deviation = np.sqrt(square / len(X))
    constant = deviation <= np.finfo(np.float32).eps * np.abs(mean)
    found = mean, np.where(constant, 1.0, deviation)
    if isinstance(X, Blocks):
        X.standard = found
    return found


def class_sums(X: Rows, codes: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """The sum of the rows of each class, ``(k, d)`` float64."""
    sums = np.zeros((classes, X.shape[1]))
    for rows, block in in_blocks(X):
        for code in np.unique(codes[rows]):
            sums[code] += block[codes[rows] == code].sum(axis=0, dtype=np.float64)
    return sums


def class_weights(
    codes: NDArray[np.int64], classes: NDArray[Any], class_weight: str | Mapping[Any, float] | None
) -> NDArray[np.float64] | None:
    """The weight of each class, ``(k,)``, as in scikit-learn; None if all are equal."""
    from sklearn.utils.class_weight import compute_class_weight

    if class_weight is None:
        return None
    return np.asarray(compute_class_weight(class_weight, classes=classes, y=classes[codes]), np.float64)


class LinearHead(BaseHead, ClassifierMixin, BaseEstimator):
    """A linear classifier on standardised embeddings; subclasses implement ``fit``.

    Standardisation is folded into the coefficients, so inputs are never copied. This loses precision for
    columns whose mean is thousands of times their standard deviation, which embeddings do not have.

    Attributes
    ----------
    classes_ : (k,) class labels.
    coef_ : (k, d) float32, for raw inputs.
    intercept_ : (k,) float64.
    mean_, scale_ : (d,) float64, mean and standard deviation of the training inputs; the scale of a constant
        column is 1.
    temperature_ : divides the scores before the softmax; 1 if the scores are logits.
    """

    temperature_ = 1.0

    def decision_function(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores, ``(n, k)`` float64.

        For two classes ``(n,)``, as in scikit-learn: the second score minus the first.
        """
        scores = self._scores_of(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Class probabilities, ``(n, k)`` float64; columns follow ``classes_``."""
        return softmax(self._scores_of(X) / self.temperature_)

    def predict(self, X: NDArray[np.float32]) -> NDArray[Any]:
        """The most probable class of each row, ``(n,)``."""
        best = self._scores_of(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def plain(self, temperature: float = 1.0) -> Any:
        """A fitted ``LogisticRegression`` with the probabilities of this head at this temperature."""
        from sklearn.linear_model import LogisticRegression

        check_is_fitted(self)
        coef = self.coef_ / (self.temperature_ * temperature)
        intercept = self.intercept_ / (self.temperature_ * temperature)
        if len(self.classes_) == 2:  # scikit-learn stores the difference
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        plain = LogisticRegression()
        plain.classes_, plain.coef_, plain.intercept_ = self.classes_, coef, intercept
        plain.n_features_in_ = coef.shape[1]
        plain.n_iter_ = np.array([getattr(self, "n_iter_", 0)])
        return plain

    def _checked(self, X: Any, y: Any) -> tuple[Rows, NDArray[np.int64]]:
        """Validate inputs and encode labels; sets ``classes_``, ``mean_`` and ``scale_``."""
        X, y = validated(self, X, y)
        codes = self._encoded(y)
        self.mean_, self.scale_ = centre_and_scale(X)
        return X, codes

    def _scores_of(self, X: Any) -> NDArray[np.float64]:
        """Scores ``(n, k)`` for inputs that are not validated yet."""
        check_is_fitted(self)
        return self._scores(validate_data(self, X, dtype=np.float32, order="C", reset=False))

    def _scores(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        from scipy.linalg.blas import sgemm  # and not NumPy's: see models/heads/lbfgs.py

        scores = sgemm(1, X.T, self.coef_.T, trans_a=True)  # X.T is in Fortran order: no copy
        return np.ascontiguousarray(scores, np.float64) + self.intercept_

    def _calibrate(self, X: Rows, codes: NDArray[np.int64]) -> None:
        """Fit ``temperature_`` on a sample of the training images."""
        parts = [self._scores(block) for _, block in in_blocks(sample(X))]
        self.temperature_ = fit_temperature(np.concatenate(parts), codes[evenly(len(X))])

    def _settle(self, X: Rows, codes: NDArray[np.int64]) -> None:
        """Set attributes that depend on the coefficients and the training images; none by default."""

    def _fold(self, weights: NDArray[np.float64], bias: NDArray[np.float64]) -> None:
        """Set coefficients from weights (d, k) and biases (k,) for standardised inputs."""
        raw = weights / self.scale_[:, None]
        self.coef_ = raw.T.astype(np.float32)
        self.intercept_ = bias - self.mean_ @ raw

    def _unfolded(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The inverse of :meth:`_fold`."""
        raw = self.coef_.T.astype(np.float64)
        return raw * self.scale_[:, None], self.intercept_ + self.mean_ @ raw
