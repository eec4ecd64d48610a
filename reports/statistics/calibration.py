"""Calibration of probabilities, and selective accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.temperature import FLOOR
from reports.statistics.metrics import LEVEL, wilson

BINS = 15
RESAMPLES = 500  # bootstrap draws for the interval of the calibration error
COVERAGES = 50  # points of the coverage curve
CHUNK = 2_000_000  # drawn images in memory at a time


def calibration(
    labels: NDArray[np.int64], proba: NDArray[np.float64], seed: int = 0, bins: int = BINS
) -> dict[str, Any]:
    """Calibration error, Brier score and log loss of probabilities.

    ``ece`` is the expected calibration error of the predicted class: the absolute difference between
    accuracy and mean confidence of a bin, averaged over images (C. Guo et al., On calibration of modern
    neural networks, 2017, equation 3), with bins of equal size (K. Nguyen and B. O'Connor, Posterior
    calibration and exploratory analysis for natural language processing models, 2015). Images of equal
    confidence share a bin, that of their middle rank, so that results do not depend on the order of rows;
    empty bins are omitted.

    Parameters
    ----------
    labels : (n,) true classes.
    proba : (n, k) probabilities.
    seed : of the bootstrap.
    bins : largest number of bins.

    Returns
    -------
    dict
        ``ece``: ``value``, ``low``, ``high`` (see :func:`ece_interval`). ``brier``: mean over images
        of the squared distance between probabilities and truth, summed over classes, from 0 to 2
        (G. W. Brier, Verification of forecasts expressed in terms of probability, 1950).
        ``log_loss``: in nats, with probabilities clipped at ``FLOOR``. ``bins``, by ascending
        confidence: ``count`` of images, their mean ``confidence``, ``accuracy``, and its Wilson interval
        ``low``, ``high``. All are JSON values.

    Notes
    -----
    Brier score and log loss equal those of scikit-learn 1.9 (tested), whose functions take 30 and 80 times
    as long (3.1 and 4.7 ms for 10,000 images of 10 classes) and warn for float32 probabilities, whose rows
    sum to 1 only within 1e-7.
    """
    confidence, correct = _ranked(labels, proba)
    images = len(labels)
    first, last = (np.searchsorted(confidence, confidence, side) for side in ("left", "right"))
    _, place, counts = np.unique(
        bins * (first + last) // (2 * images), return_inverse=True, return_counts=True
    )
    hits = np.bincount(place, correct)
    sums = np.bincount(place, confidence)
    low, high = ece_interval(correct - confidence, place, seed)
    rows = [
        {
            "count": int(count),
            "confidence": float(total / count),
            "accuracy": float(hit / count),
            **dict(zip(("low", "high"), wilson(int(hit), int(count)), strict=True)),
        }
        for count, total, hit in zip(counts, sums, hits, strict=True)
    ]
    of_truth = proba[np.arange(images), labels]
    return {
        "ece": {"value": float(np.abs(hits - sums).sum() / images), "low": low, "high": high},
        "brier": max(0.0, float((np.einsum("ij,ij->i", proba, proba) - 2 * of_truth + 1).mean())),
        "log_loss": float(np.log(1 / np.clip(of_truth, FLOOR, 1)).mean()),
        "bins": rows,
    }


def ece_interval(excess: NDArray[np.float64], place: NDArray[np.int64], seed: int = 0) -> tuple[float, float]:
    """Conservative interval of the expected calibration error: covers the true error in at least 95%.

    The estimate is the sum over bins of ``|gap + noise|``, which is biased upwards: it is never 0 for a
    perfectly calibrated head, and larger still in a bootstrap sample. So percentile intervals never cover a
    true error of 0, and basic bootstrap intervals do so in a third of our simulations. By the triangle
    inequality, the estimate is too large by at most the sum of ``|noise|``, and too small by at most the sum
    of noise with one fixed sign per bin. The bootstrap over images (fixed bins) gives the 97.5% quantiles of
    these two sums. The interval covers 0 unless calibration is rejected, as in the consistency test of J.
    Bröcker and L. A. Smith, Increasing the reliability of reliability diagrams, 2007.

    Parameters
    ----------
    excess : (n,) correct (0 or 1) minus confidence.
    place : (n,) bin numbers, from 0.
    seed : of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    images, bins = len(excess), int(place.max()) + 1
    gaps = np.bincount(place, excess) / images
    noise = np.empty((RESAMPLES, bins))
    step = max(1, CHUNK // images)
    for start in range(0, RESAMPLES, step):
        part = noise[start : start + step]
        drawn = rng.integers(images, size=(len(part), images))
        cells = place[drawn] + bins * np.arange(len(part))[:, None]
        totals = np.bincount(cells.ravel(), excess[drawn].ravel(), minlength=part.size)
        part[:] = totals.reshape(part.shape) / images - gaps
    error, tail = np.abs(gaps).sum(), (1 + LEVEL) / 2
    above = np.quantile(np.abs(noise).sum(axis=1), tail)
    below = np.quantile(noise @ np.where(gaps < 0, 1.0, -1.0), tail)
    return float(max(0.0, error - above)), float(min(1.0, error + max(0.0, below)))


def coverage(labels: NDArray[np.int64], proba: NDArray[np.float64]) -> list[dict[str, float]]:
    """Selective accuracy: the accuracy on the most confident share of the images, for growing shares.

    R. El-Yaniv and Y. Wiener, On the foundations of noise-free selective classification, 2010. Images of
    equal confidence count with their mean accuracy, so that results do not depend on their order.

    Parameters
    ----------
    labels : (n,) true classes.
    proba : (n, k) probabilities.

    Returns
    -------
    list of dict
        ``coverage`` and ``accuracy`` at ``COVERAGES`` shares (for fewer images, at each).
    """
    confidence, correct = _ranked(labels, proba)
    images = len(labels)
    _, group, sizes = np.unique(-confidence[::-1], return_inverse=True, return_counts=True)
    expected = np.cumsum((np.bincount(group, correct[::-1]) / sizes)[group])
    shares = np.unique(-(-images * np.arange(1, COVERAGES + 1) // COVERAGES))
    return [
        {"coverage": float(share / images), "accuracy": float(expected[share - 1] / share)}
        for share in shares
    ]


def _ranked(
    labels: NDArray[np.int64], proba: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Confidence and correctness (0 or 1), (n,) each, sorted by confidence and then correctness."""
    confidence = proba.max(axis=1)
    correct = (proba.argmax(axis=1) == labels).astype(np.float64)
    order = np.lexsort((correct, confidence))
    return confidence[order], correct[order]
