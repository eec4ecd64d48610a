"""Every number of a report, each computed here and once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95  # of every interval
DRAWS = 2_000  # bootstrap resamples
GAP = 0.05  # of accuracy between training and validation that counts as overfitting
MARGIN = 0.02  # of accuracy by which another head must do better to call this one underfit
GAIN = 0.005  # of validation accuracy still gained in the last fifth that counts as unfinished


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion, 95%.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927. By
    SciPy.
    """
    from scipy.stats import binomtest

    interval = binomtest(correct, total).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def macro_f1(confusion: NDArray[Any]) -> NDArray[np.float64]:
    """Mean over classes of F1 from confusion matrices ``(..., k, k)``, rows true; ``(...)``.

    A class that neither occurs nor is predicted counts 0, as in scikit-learn.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    both = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    return np.asarray((2 * hits / np.maximum(both, 1)).mean(axis=-1))


def bootstrap_macro_f1(confusion: NDArray[np.int64], seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of macro F1 over test images, 95%, stratified by true class.

    F1 depends on an image through its cell of the confusion matrix alone, so drawing a class's
    images with replacement is drawing its row of cells from a multinomial: no n-sized arrays.
    Stratified, because a plain draw misses small classes altogether and counts their F1 as 0.
    """
    rng = np.random.default_rng(seed)
    sizes = confusion.sum(axis=1)
    shares = (confusion + (sizes == 0)[:, None]) / np.maximum(sizes, confusion.shape[1] * (sizes == 0))[
        :, None
    ]
    drawn = rng.multinomial(sizes, shares, size=(DRAWS, len(sizes)))
    low, high = np.quantile(macro_f1(drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def scores(
    labels: NDArray[np.int64], proba: NDArray[np.float64], class_names: tuple[str, ...]
) -> dict[str, Any]:
    """What the test predictions of one run amount to.

    Parameters
    ----------
    labels : (n,) true classes.
    proba : (n, k) probabilities.
    class_names : k names.

    Returns
    -------
    dict
        ``accuracy`` and ``macro_f1`` as ``value``, ``low``, ``high``; ``per_class``;
        ``confusion`` (k rows of true classes); ``text``, scikit-learn's classification report.
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
    f1_low, f1_high = bootstrap_macro_f1(confusion)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=0
    )
    per_class = [
        {"class": name, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
        for name, p, r, f, n in zip(class_names, precision, recall, f1, support, strict=True)
    ]
    return {
        "accuracy": {"value": correct / len(labels), "low": low, "high": high},
        "macro_f1": {"value": float(macro_f1(confusion)), "low": f1_low, "high": f1_high},
        "per_class": per_class,
        "confusion": confusion.tolist(),
        "text": classification_report(labels, predicted, digits=3, **common),
    }


def diagnosis(
    history: dict[str, list[float]], kept: int, reached: float, classes: int
) -> dict[str, str] | None:
    """Does the head overfit, underfit, or neither? From its curves; None without any.

    Judged at the epoch whose weights were kept. *Underfit*: accuracy on the training images
    themselves is less than a tenth of the way from chance to 1, or lower by ``MARGIN`` than what
    another head reaches on validation with the same vectors; or validation accuracy still rose
    by more than ``GAIN`` in the last fifth of the epochs. *Overfit*: training accuracy is more
    than ``GAP`` above validation. *Neither*: otherwise.

    Parameters
    ----------
    history : ``accuracy``, ``loss``, ``val_accuracy`` and ``val_loss`` by epoch.
    kept : the epoch that was kept, from 1.
    reached : the best validation accuracy of any other head on the same vectors; 0 if none.
    classes : how many there are.

    Returns
    -------
    dict
        ``verdict`` (overfit, underfit, neither) and ``sentence``.
    """
    if not history:
        return None
    training, validation = np.array(history["accuracy"]), np.array(history["val_accuracy"])
    loss = np.array(history["val_loss"])
    kept, last = kept - 1, len(validation) - 1
    gap = training[kept] - validation[kept]
    gain = validation[kept] - validation[: max(1, round(len(validation) * 0.8))].max()
    if training[kept] < 1 / classes + 0.1 * (1 - 1 / classes):
        verdict, advice = (
            "underfit",
            (
                "the head has hardly learned anything: its optimiser cannot use these inputs. "
                "Standardised inputs or another learning rate would help"
            ),
        )
    elif training[kept] < reached - MARGIN:
        verdict, advice = (
            "underfit",
            (
                f"another head reaches {reached:.3f} on validation with the same vectors, more than this one "
                "reaches on its own training images. The vectors hold more than it has fitted: longer or "
                "better training would help, more regularisation would not"
            ),
        )
    elif gain > GAIN:
        verdict, advice = (
            "underfit",
            (
                f"validation accuracy still rose by {gain:.3f} in the last fifth of the epochs: training "
                "stopped too early. More epochs or a larger learning rate would help"
            ),
        )
    elif gap > GAP:
        rise = loss[last] / loss.min() - 1
        tail = (
            ""
            if rise < 0.01
            else f" (its loss ends {rise:.0%} above its minimum, at epoch {loss.argmin() + 1})"
        )
        verdict, advice = (
            "overfit",
            (
                f"it knows its training images better than new ones{tail}. More images or more "
                "regularisation would help, more epochs would not"
            ),
        )
    else:
        verdict, advice = (
            "neither",
            (
                "training and validation agree and have levelled out. Better embeddings (more layers, more "
                "pixels) would help more than another setting of this head"
            ),
        )
    opening = "Neither over- nor underfit" if verdict == "neither" else verdict.capitalize()
    sentence = (
        f"{opening}. At the kept epoch ({kept + 1} of {last + 1}) accuracy is {training[kept]:.3f} on "
        f"training and {validation[kept]:.3f} on validation images; {advice}."
    )
    return {"verdict": verdict, "sentence": sentence}
