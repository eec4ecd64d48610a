"""One number that makes scores into probabilities one can trust."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BOUNDS = (1e-4, 1e4)  # of a temperature; reached only by uninformative or perfectly separable scores
FLOOR = 1e-12  # of a probability whose logarithm is a loss: one certain error is not all that counts
BLOCK = 1_000_000  # probabilities that are scaled at a time
TINY = 1e-300  # of a probability that is scaled: as little as possible is lost of what it was


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of logits ``(n, k)``, rows sum to 1."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def fit_temperature(logits: NDArray[np.float64], codes: NDArray[np.int64]) -> float:
    """The temperature ``T`` for which ``softmax(logits / T)`` has the least log loss.

    C. Guo et al., On calibration of modern neural networks, 2017, section 4.2; with J. Platt's
    idea (Probabilistic outputs for support vector machines, 1999, section 2.2) of targets that stop
    short of 0 and 1: as if one image more, of mean scores, could be of any class. So scores that
    are all right do not become certainties. The loss is convex in ``1 / T``, so a bounded scalar
    search finds its minimum.

    Parameters
    ----------
    logits : (n, k) scores; any real numbers.
    codes : (n,) the columns that are true.
    """
    from scipy.optimize import minimize_scalar

    rows = len(logits)
    shifted = np.ascontiguousarray((logits - logits.max(axis=1, keepdims=True)).T)  # (k, n): quicker sums
    truth = (rows * shifted[codes, np.arange(rows)] + shifted.mean(axis=0)) / (rows + 1)

    def loss(log_inverse: float) -> float:
        inverse = np.exp(log_inverse)
        return float((np.log(np.exp(shifted * inverse).sum(axis=0)) - truth * inverse).mean())

    low, high = np.log(1 / BOUNDS[1]), np.log(1 / BOUNDS[0])
    return float(np.exp(-minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def scaled(proba: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Probabilities ``(n, k)`` after temperature scaling; 1 leaves them as they are.

    Block by block, so that what is computed on the way is small beside the result.
    """
    result = np.empty_like(proba, dtype=np.result_type(proba, np.float32))
    rows = max(1, BLOCK // max(1, proba.shape[1]))
    for start in range(0, len(proba), rows):
        part = proba[start : start + rows]
        result[start : start + rows] = softmax(np.log(np.clip(part, TINY, None)) / temperature)
    return result


def temperature_of(proba: NDArray[np.float64], codes: NDArray[np.int64]) -> float:
    """:func:`fit_temperature` for a classifier that gives probabilities, not logits."""
    return fit_temperature(np.log(np.clip(proba, TINY, None)), codes)
