"""What every linear head shares once it is fitted: logits of embeddings as they come."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from models.temperature import softmax


class LinearHead(ClassifierMixin, BaseEstimator):
    """A linear classifier of standardised embeddings; its subclasses differ in how they fit.

    Standardising is folded into the coefficients, so neither ``fit`` nor ``predict_proba`` copies
    the inputs. (A column whose mean is thousands of its deviations loses digits by that; embeddings
    have no such columns.)

    Attributes
    ----------
    classes_ : (k,) class labels.
    coef_ : (k, d) float32, for inputs as they come (not standardised).
    intercept_ : (k,) float64.
    mean_, scale_ : (d,) float64, of the training inputs; 1 for the scale of a constant column.
    temperature_ : what the scores are divided by before the softmax; 1 where they are logits.
    """

    temperature_ = 1.0

    def decision_function(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores, ``(n, k)`` float64."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, order="C", reset=False)
        return np.asarray((X @ self.coef_.T).astype(np.float64) + self.intercept_)

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Class probabilities, ``(n, k)`` float64; columns follow ``classes_``."""
        return softmax(self.decision_function(X) / self.temperature_)

    def predict(self, X: NDArray[np.float32]) -> NDArray[Any]:
        """The most probable class of each row, ``(n,)``."""
        return np.asarray(self.classes_[self.decision_function(X).argmax(axis=1)])

    def _checked(self, X: Any, y: Any) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Inputs as float32 rows and classes as numbers; sets ``classes_``, ``mean_``, ``scale_``."""
        X, y = validate_data(self, X, y, dtype=np.float32, order="C")
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"{type(self).__name__} needs at least two classes; came one class")
        self.mean_ = X.mean(axis=0, dtype=np.float64)
        deviation = X.std(axis=0, dtype=np.float64)
        self.scale_ = np.where(deviation > 0, deviation, 1.0)
        return X, codes

    def _fold(self, weights: NDArray[np.float64], bias: NDArray[np.float64]) -> None:
        """Take weights (d, k) and biases of standardised inputs."""
        raw = weights / self.scale_[:, None]
        self.coef_ = raw.T.astype(np.float32)
        self.intercept_ = bias - self.mean_ @ raw

    def _unfolded(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What :meth:`_fold` took, from the last fit."""
        raw = self.coef_.T.astype(np.float64)
        return raw * self.scale_[:, None], self.intercept_ + self.mean_ @ raw
