"""Classification scores and their intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95  # of every interval
DRAWS = 2_000  # bootstrap resamples


def wilson(correct: int, total: int) -> tuple[float, float]:
    """95% Wilson score interval of a proportion, by SciPy.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    from scipy.stats import binomtest

    interval = binomtest(correct, total).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def by_class(right: int, guessed: int, images: int) -> dict[str, tuple[float, float]]:
    """95% intervals of the ``precision``, ``recall`` and ``f1`` of a class, by :func:`wilson`.

    Recall is a proportion of the class's images, precision of the images predicted as the class. F1 is
    ``2 J / (1 + J)``, where the Jaccard index ``J = right / (guessed + images - right)`` is a proportion
    too. A proportion of 0 images has the interval (0, 0). Bootstrap intervals would have zero width for
    classes without errors or without hits: 37% of the test sets with 100 images of a class whose true recall
    is 0.99 (``benchmarks/coverage.py``).

    Parameters
    ----------
    right : number of images of the class that were predicted as it.
    guessed : number of images that were predicted as the class.
    images : number of images of the class.

    Returns
    -------
    dict
        (low, high) by metric.
    """

    def share(whole: int) -> tuple[float, float]:
        return wilson(right, whole) if whole else (0.0, 0.0)

    low, high = (2 * end / (1 + end) for end in share(guessed + images - right))
    return {"precision": share(guessed), "recall": share(images), "f1": (low, high)}


def ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """``part / whole``, and 0 where ``whole`` is 0, as in scikit-learn."""
    return np.asarray(part / np.maximum(whole, 1), dtype=np.float64)


def resampled(confusion: NDArray[np.int64], seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bootstrap over test images, stratified by true class.

    Precision, recall and F1 depend on an image only through its cell of the confusion matrix, so resampling
    the images of a class is a multinomial draw of the cells of its row, which needs no arrays of n images.
    Rows are drawn one at a time, and only cells with images, so arrays have at most ``DRAWS`` times k
    elements. Without stratification, draws can lack small classes, whose F1 would count as 0.

    Parameters
    ----------
    confusion : (k, k) numbers of images, with true classes as rows.
    seed : of the draws.

    Returns
    -------
    tuple
        Numbers of images of each class predicted correctly, and of images predicted as each class;
        (``DRAWS``, k) int64 each.
    """
    rng = np.random.default_rng(seed)
    hits = np.zeros((DRAWS, len(confusion)), dtype=np.int64, order="F")
    predicted = np.zeros_like(hits)
    for label, row in enumerate(confusion):
        cells = np.flatnonzero(row)
        if len(cells):
            drawn = rng.multinomial(row.sum(), row[cells] / row.sum(), size=DRAWS)
            hits[:, label] = drawn[:, cells == label].sum(axis=1)
            predicted[:, cells] += drawn
    return hits, predicted


def interval(drawn: NDArray[np.float64]) -> tuple[Any, Any]:
    """95% percentile bootstrap interval over the first axis: (draws, ...) to two arrays (...).

    B. Efron, Bootstrap methods: another look at the jackknife, 1979.
    """
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def scores(
    labels: NDArray[np.int64], proba: NDArray[np.float64], class_names: tuple[str, ...]
) -> dict[str, Any]:
    """Scores of test predictions, with intervals.

    Parameters
    ----------
    labels : (n,) true classes.
    proba : (n, k) probabilities.
    class_names : k names.

    Returns
    -------
    dict
        ``accuracy``, ``macro_f1`` and ``balanced_accuracy`` as ``value``, ``low``, ``high``;
        ``per_class``: ``class``, ``support``, and ``precision``, ``recall``, ``f1`` each with
        ``_low`` and ``_high``; ``confusion`` (k rows of true classes); ``text``, scikit-learn's
        classification report.

    Notes
    -----
    The intervals of ``macro_f1`` and ``balanced_accuracy`` are bootstrap intervals (:func:`resampled`), that
    of ``accuracy`` is Wilson's, and those of classes are from :func:`by_class`.
    """
    from sklearn.metrics import (
        classification_report,
        confusion_matrix,
        precision_recall_fscore_support,
    )

    predicted = proba.argmax(axis=1)
    classes = np.arange(len(class_names))
    confusion = confusion_matrix(labels, predicted, labels=classes)
    common: dict[str, Any] = {
        "labels": classes,
        "target_names": [" ".join(name.split()) for name in class_names],
        "zero_division": 0,
    }
    correct = int((predicted == labels).sum())
    low, high = wilson(correct, len(labels))
    sizes = confusion.sum(axis=1)
    hits, guesses = resampled(confusion)
    numbers = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    _, recall, f1, _ = numbers
    per_class: list[dict[str, Any]] = [
        {"class": name, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
        for name, p, r, f, n in zip(class_names, *numbers, strict=True)
    ]
    counts = (confusion.diagonal(), confusion.sum(axis=0), sizes)
    for row, *count in zip(per_class, *(each.tolist() for each in counts), strict=True):
        for metric, ends in by_class(*count).items():
            row[f"{metric}_low"], row[f"{metric}_high"] = ends
    macro = interval(ratio(2 * hits, guesses + sizes).mean(axis=1))
    balanced = interval(ratio(hits, sizes)[:, sizes > 0].mean(axis=1))
    return {
        "accuracy": {"value": correct / len(labels), "low": low, "high": high},
        "macro_f1": _estimate(float(f1.mean()), macro),
        "balanced_accuracy": _estimate(float(recall[sizes > 0].mean()), balanced),
        "per_class": per_class,
        "confusion": confusion.tolist(),
        "text": classification_report(labels, predicted, digits=3, **common),
    }


def _estimate(value: float, ends: tuple[Any, Any]) -> dict[str, float]:
    return {"value": value, "low": float(ends[0]), "high": float(ends[1])}
