"""Temperature scaling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BOUNDS = (1e-4, 1e4)  # of a temperature; reached only by uninformative or perfectly separable scores
FLOOR = 1e-12  # lower bound of probabilities in a log loss, so that one certain error does not dominate
BLOCK = 1_000_000  # probabilities scaled at a time
TINY = 1e-300  # lower bound of probabilities that are scaled, to take their logarithm


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Softmax over the rows of logits ``(n, k)``."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def fit_temperature(logits: NDArray[np.float64], codes: NDArray[np.int64]) -> float:
    """The temperature ``T`` that minimises the log loss of ``softmax(logits / T)``.

    C. Guo et al., On calibration of modern neural networks, 2017, section 4.2. As in J. Platt,
    Probabilistic outputs for support vector machines, 1999, section 2.2, targets are not exactly 0 and 1:
    one more image, with mean scores, counts for all classes equally. So a validation split without errors
    does not lead to probabilities of 1. The loss is convex in ``1 / T``; its minimum is found by a bounded
    scalar search.

    Parameters
    ----------
    logits : (n, k) scores.
    codes : (n,) true classes, as column numbers.

    Returns
    -------
    float
        From ``BOUNDS[0]`` to ``BOUNDS[1]``.
    """
    from scipy.optimize import minimize_scalar

    rows = len(logits)
    shifted = np.ascontiguousarray((logits - logits.max(axis=1, keepdims=True)).T)  # (k, n): faster sums
    truth = (rows * shifted[codes, np.arange(rows)] + shifted.mean(axis=0)) / (rows + 1)

    def loss(log_inverse: float) -> float:
        inverse = np.exp(log_inverse)
        return float((np.log(np.exp(shifted * inverse).sum(axis=0)) - truth * inverse).mean())

    low, high = np.log(1 / BOUNDS[1]), np.log(1 / BOUNDS[0])
    return float(np.exp(-minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def scaled(proba: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Probabilities ``(n, k)`` after temperature scaling; at temperature 1 they are unchanged.

    Computed in blocks to limit memory.
    """
    result = np.empty_like(proba, dtype=np.result_type(proba, np.float32))
    rows = max(1, BLOCK // max(1, proba.shape[1]))
    for start in range(0, len(proba), rows):
        part = proba[start : start + rows]
        result[start : start + rows] = softmax(np.log(np.clip(part, TINY, None)) / temperature)
    return result


def temperature_of(proba: NDArray[np.float64], codes: NDArray[np.int64]) -> float:
    """:func:`fit_temperature` for probabilities ``(n, k)`` instead of logits."""
    return fit_temperature(np.log(np.clip(proba, TINY, None)), codes)
