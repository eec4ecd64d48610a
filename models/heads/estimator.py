"""Scikit-learn classifiers as heads."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.words import counted
from models.heads.base import BaseHead
from models.heads.blocks import Blocks, Rows, evenly, in_blocks
from models.heads.parameters import check, one_of, optional
from models.heads.refusal import Refused
from models.heads.spool import Scattered
from models.temperature import softmax

STANDARD = "standard"


class EstimatorHead(BaseHead):
    """A classifier with scikit-learn's interface, on raw or standardised embeddings.

    Without ``predict_proba``, probabilities are the softmax of ``decision_function`` (for two classes: of 0
    and the score), which selection calibrates as for any head; without both, they are 1 for the predicted
    class. Probabilities are at least ``1 / (n + k)`` for n training images and k classes (Laplace's rule of
    succession): a forest whose trees agree gives 0 to all other classes, which temperature scaling cannot
    correct.

    Parameters
    ----------
    estimator : the unfitted classifier. The head has its parameters, and ``scale``.
    scale : ``standard`` puts a ``StandardScaler`` before it; None: raw embeddings.

    Attributes
    ----------
    classes_ : (k,) class labels.
    fitted_ : the fitted classifier, or the ``Pipeline`` of scaler and classifier.

    Raises
    ------
    ValueError
        From ``fit`` and ``predict_proba``: as raised by the classifier.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.svm import LinearSVC
    >>> from models import EstimatorHead
    >>> X, y = np.eye(6, dtype=np.float32), np.arange(6) % 3
    >>> EstimatorHead(LinearSVC(), scale="standard").fit(X, y).predict_proba(X).shape
    (6, 3)
    """

    def __init__(self, estimator: Any, scale: str | None = None) -> None:
        self.estimator = estimator
        self.scale = scale

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The classifier's parameters, and ``scale``."""
        return {**self.estimator.get_params(deep=deep), "scale": self.scale}

    def set_params(self, **parameters: Any) -> EstimatorHead:
        """Set parameters of the classifier, or ``scale``."""
        self.scale = parameters.pop("scale", self.scale)
        self.estimator.set_params(**parameters)
        return self

    def check(self) -> None:
        """Raise ``ValueError`` for an invalid parameter, with scikit-learn's own validation."""
        check(self, scale=optional(one_of(STANDARD)))
        if hasattr(self.estimator, "_parameter_constraints"):  # an estimator of scikit-learn
            self._guarded(self.estimator._validate_params)

    def fit(self, X: Rows, y: NDArray[Any]) -> EstimatorHead:
        """Fit a clone of the classifier on ``X`` (n, d) and ``y`` (n,); out of core with ``partial_fit``.

        Raises
        ------
        ValueError
            As raised by the classifier for its parameters or the embeddings.
        """
        from sklearn.base import clone
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self.check()
        model = clone(self.estimator)
        self.fitted_ = make_pipeline(StandardScaler(), model) if self.scale else model
        epochs = None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if isinstance(X, Blocks):
                epochs = self._fit_in_blocks(X, y)
            else:
                self._guarded(self.fitted_.fit, X, y)
        self._remarks = list(
            dict.fromkeys(f"warned: {_one_line(str(warning.message))}" for warning in caught)
        )
        if epochs is not None:
            self._remarks.append(f"was by partial_fit, in {counted(epochs, 'epoch')}")
        self.classes_ = np.asarray(self.fitted_.classes_)
        self._least = 1 / (len(y) + len(self.classes_))
        return self

    def _fit_in_blocks(self, X: Blocks, y: NDArray[Any]) -> int:
        """Fit out of core, one pass in random order per epoch; returns the number of epochs.

        Classifiers with ``max_iter`` stop, as in scikit-learn, after ``n_iter_no_change`` epochs without
        improvement, here of accuracy on a sample of the training rows.
        """
        *scaler, model = self.fitted_ if self.scale else [self.fitted_]
        if scaler:
            for _, block in in_blocks(X):
                scaler[0].partial_fit(block)
        prepared = scaler[0].transform if scaler else np.asarray
        classes, codes = np.unique(y, return_inverse=True)
        own = codes[evenly(len(X))]
        parameters = self.get_params(deep=False)
        seed = parameters.get("random_state")
        rng = np.random.default_rng(seed if isinstance(seed, int) else 0)
        rows = Scattered(X, X.memory // 2)
        best, best_epoch, epoch = -1.0, 0, 0
        for epoch in range(1, int(parameters.get("max_iter", 1)) + 1):
            for numbers, values in rows.in_order(rng.permutation(len(X)), X.step):
                self._guarded(model.partial_fit, prepared(values), y[numbers], classes)
            said = [self._guarded(model.predict, prepared(block)) for _, block in in_blocks(X.sample())]
            accuracy = float((np.concatenate(said) == classes[own]).mean())
            if accuracy > best:
                best, best_epoch = accuracy, epoch
            if epoch - best_epoch >= int(parameters.get("n_iter_no_change", 5)):
                break
        return epoch

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Class probabilities, ``(n, k)`` float64, none of them 0; columns follow ``classes_``.

        Raises
        ------
        ValueError
            As raised by the classifier, or its probabilities are not finite.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the result is checked below
            proba = self._proba(X)
        if not np.isfinite(proba).all():
            lost = int((~np.isfinite(proba)).any(axis=1).sum())
            raise Refused(
                f"{type(self.estimator).__name__} has no probabilities for {lost:,} of {len(X):,} images; "
                "other parameters, or scale=standard, may help"
            )
        proba = np.maximum(proba, self._least)
        return np.asarray(proba / proba.sum(axis=1, keepdims=True))

    def _proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probabilities of the classifier, ``(n, k)``, possibly 0."""
        if hasattr(self.fitted_, "predict_proba"):
            return np.asarray(self._guarded(self.fitted_.predict_proba, X), np.float64)
        if hasattr(self.fitted_, "decision_function"):
            scores = np.asarray(self._guarded(self.fitted_.decision_function, X), np.float64)
            return softmax(np.stack([np.zeros(len(X)), scores], axis=1) if scores.ndim == 1 else scores)
        predicted = np.asarray(self._guarded(self.fitted_.predict, X))
        return np.asarray(predicted[:, None] == self.classes_, np.float64)

    def remarks(self) -> list[str]:
        """The warnings of the last fit."""
        return self._remarks

    def memory(self, rows: int, width: int, classes: int) -> tuple[int, str]:
        """Bytes of float64 copies of the embeddings and of kernel matrices, by class of the classifier."""
        name = type(self.estimator).__name__
        copies = COPIES.get(name, 0) + (0.5 if self.scale else 0)
        kernels = KERNELS.get(name, 0)
        parts = [
            (copies * rows * width * 8, f"{copies:g} x {rows:,} images x {width:,} values x 8 bytes"),
            (kernels * rows**2 * 8, f"{kernels:g} x {rows:,} x {rows:,} pairs of images x 8 bytes"),
        ]
        return int(sum(size for size, _ in parts)), " + ".join(words for size, words in parts if size)

    def memory_in_blocks(self, rows: int, width: int, classes: int) -> tuple[int, str]:
        """With ``partial_fit``: bytes of coefficients and a copy; otherwise of all rows."""
        if not hasattr(self.estimator, "partial_fit"):
            return super().memory_in_blocks(rows, width, classes)
        return 16 * width * classes, f"16 x {width:,} values x {classes:,} classes"

    def plain(self, temperature: float = 1.0) -> Any:
        """The fitted classifier itself, whose probabilities are not calibrated."""
        return self.fitted_

    @classmethod
    def of_fitted(cls, fitted: Any, rows: int) -> EstimatorHead:
        """A head from a stored ``fitted_`` and its number of training rows."""
        head = cls(fitted)
        head.fitted_, head.classes_, head._remarks = fitted, np.asarray(fitted.classes_), []
        head._least = 1 / (rows + len(head.classes_))
        return head

    def _guarded(self, call: Callable[..., Any], *given: Any) -> Any:
        """Call a method of the classifier; its ValueErrors become one-line messages."""
        try:
            return call(*given)
        except ValueError as error:
            raise Refused(_one_line(f"{type(self.estimator).__name__}: {error}")) from error


# Lower bounds of the memory of a fit, by class: in float64 matrices of the size of the embeddings, and of all
# pairs of images. Measured as growth of resident memory with scikit-learn 1.9.1 (benchmarks/classifiers.py
# --memory --rows 3000 --width 600); LinearDiscriminantAnalysis, 2.1 there, at 50,000 x 2,816
# (docs/results.md). GaussianProcessClassifier is calculated: a kernel and its Cholesky factor. Classes that
# are not listed used less than half of a matrix, or were not measured.
COPIES: dict[str, float] = {
    "BernoulliNB": 1.7,
    "ComplementNB": 0.9,
    "LinearDiscriminantAnalysis": 1.6,
    "LinearSVC": 3,
    "MultinomialNB": 0.9,
    "NearestCentroid": 2,
    "NuSVC": 2,
    "RidgeClassifier": 1,
    "RidgeClassifierCV": 3,
    "SVC": 2,
}
KERNELS: dict[str, float] = {"GaussianProcessClassifier": 2, "LabelPropagation": 1.4, "LabelSpreading": 1.4}


def _one_line(text: str) -> str:
    """The first paragraph of a message as one line; further ones advise on code that is not the user's."""
    return " ".join(text.split("\n\n")[0].split())
