"""Evaluation of a run on other labelled images, compared with its own test split."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.cache.embeddings import canonical
from models.runs.run import Run
from reports.statistics.calibration import calibration
from reports.statistics.metrics import scores, wilson
from reports.statistics.paired import bootstrap_difference, discordant, mcnemar
from reports.statistics.ranking import is_right


def evaluation(
    run: Run,
    labels: NDArray[np.int64],
    proba: NDArray[np.float64],
    own_rows: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """Evaluate predictions for images of classes that the run knows.

    Parameters
    ----------
    run : the run.
    labels : (n,) the run's class numbers, n >= 1.
    proba : (n, k) calibrated probabilities.
    own_rows : (n,) rows of the run's test split, if these are its own test images, possibly processed anew;
        None: other images.

    Returns
    -------
    dict
        JSON values. In ``per_class``, recall is None for classes without images and precision for classes
        that were never predicted. ``own_test`` has the numbers of the run's test images of the classes
        that occur here, or of ``own_rows``. ``difference`` is accuracy here minus ``own_test``.
    """
    found = scores(labels, proba, run.class_names)
    present = np.unique(labels)
    own = np.flatnonzero(np.isin(run.test_labels, present)) if own_rows is None else own_rows
    here, there = np.asarray(proba.argmax(axis=1) == labels), is_right(run)[own]
    guessed = np.bincount(proba.argmax(axis=1), minlength=len(run.class_names))
    low, high = wilson(int(there.sum()), len(there))
    value = float(here.mean() - there.mean())
    if own_rows is not None:
        only = discordant(here, there)
        ends = bootstrap_difference(*only, len(here))
        more: dict[str, Any] = {"method": "paired", "p": mcnemar(*only)}
        more |= dict(zip(("here_only", "there_only"), only, strict=True))
    else:
        ends = newcombe(int(here.sum()), len(here), int(there.sum()), len(there))
        more = {"method": "independent"}
    return {
        "images": len(labels),
        "accuracy": found["accuracy"],
        "balanced_accuracy": found["balanced_accuracy"],
        "macro_f1": found["macro_f1"],
        "per_class": [
            {
                "class": row["class"],
                "recall": row["recall"] if row["support"] else None,
                "precision": row["precision"] if count else None,
                "support": row["support"],
            }
            for row, count in zip(found["per_class"], guessed, strict=True)
        ],
        "calibration": _trust(labels, proba),
        "own_test": {
            "images": len(there),
            "accuracy": {"value": float(there.mean()), "low": low, "high": high},
            "calibration": _trust(run.test_labels[own], run.test_scaled[own]),
        },
        "difference": {"value": value, "low": ends[0], "high": ends[1], **more},
    }


def predictions_digest(run: Run) -> str:
    """Hex SHA-256 over a run's test predictions, which changes if it is trained again."""
    proof = hashlib.sha256(canonical([run.id, run.test_digest, run.temperature]).encode())
    for array in (run.test_labels, run.test_proba):
        proof.update(array.tobytes())
    return proof.hexdigest()


def newcombe(first: int, first_of: int, second: int, second_of: int) -> tuple[float, float]:
    """95% interval of the difference of two independent proportions, first minus second.

    R. G. Newcombe, Interval estimation for the difference between independent proportions, 1998,
    method 10: from the Wilson intervals of both.
    """
    (low, high), (other_low, other_high) = wilson(first, first_of), wilson(second, second_of)
    p, q = first / first_of, second / second_of
    below, above = np.hypot(p - low, other_high - q), np.hypot(high - p, q - other_low)
    return float(p - q - below), float(p - q + above)


def _trust(labels: NDArray[np.int64], proba: NDArray[np.float64]) -> dict[str, Any]:
    found = calibration(labels, proba)
    return {name: found[name] for name in ("ece", "log_loss")}
