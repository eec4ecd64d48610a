"""A fitted head as a plain scikit-learn or Keras object, for use without Headroom."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import UserError
from models.heads.linear import LinearHead
from models.runs.run import Run

SMALLEST = 1e-150  # a vote at distance 1; its square is still a float64


def write(run: Run, path: Path) -> Path:
    """Write the run's head, loaded with ``with_head=True``, to ``path``.

    A linear head becomes a ``LogisticRegression`` and nearest neighbours a
    ``KNeighborsClassifier``, both for ``joblib.load``; a Keras head becomes a ``.keras`` file for
    ``keras.models.load_model``. All take raw embeddings, the run's layers side by side in order,
    and answer with the run's calibrated probabilities. Nearest neighbours answer with the shares of
    the k votes alone: not calibrated, and without the head's one vote more that is spread over all
    classes, so an image whose votes are near a tie may be called otherwise.

    Raises
    ------
    UserError
        The name does not end as the head needs, the head is a vote, or the file cannot be written.
    """
    if run.members:
        raise UserError(f"{run.folder} is a vote of several heads; export one of: {', '.join(run.members)}")
    keras = hasattr(run.estimator, "weights_")
    wanted = ".keras" if keras else ".joblib"
    if path.suffix != wanted:
        raise UserError(f"TO={path}: expected a name that ends in {wanted} for the head {run.head}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if keras:
            run.estimator.plain(run.temperature).save(path)
        else:
            import joblib

            joblib.dump(_linear(run) if isinstance(run.estimator, LinearHead) else _knn(run), path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; choose another TO=") from None
    return path


def _linear(run: Run) -> Any:
    from sklearn.linear_model import LogisticRegression

    head = run.estimator
    coef = head.coef_ / (head.temperature_ * run.temperature)
    intercept = head.intercept_ / (head.temperature_ * run.temperature)
    if len(head.classes_) == 2:  # scikit-learn keeps the difference of the two
        coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
    plain = LogisticRegression()
    plain.classes_, plain.coef_, plain.intercept_ = head.classes_, coef, intercept
    plain.n_features_in_ = coef.shape[1]
    plain.n_iter_ = np.array([getattr(head, "n_iter_", 0)])
    return plain


def _knn(run: Run) -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    head = run.estimator
    # exp(-distance / T) as a power, so that the pickle needs nothing but NumPy: in float64, as float32
    # ends at 1e-45, and never 0 at the largest distance, 2, where scikit-learn would refuse to vote.
    weights = partial(np.power, np.maximum(np.exp(-1 / np.float64(head.temperature)), SMALLEST))
    k = min(head.k, len(head.rows_))
    plain = KNeighborsClassifier(n_neighbors=k, weights=weights, metric="cosine")
    return plain.fit(head.rows_, head.classes_[head.codes_])
