"""Which head is better, on the same images?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from reports.statistics.metrics import DRAWS, interval

ALPHA = 0.05  # of all tests of one table together
POWER = 0.80  # with which a detectable difference is found


@dataclass(frozen=True)
class Pair:
    """Two heads on the same test images.

    Attributes
    ----------
    first, second : their keys.
    difference : accuracy of the first minus that of the second; ``low`` and ``high`` are its paired
        bootstrap percentile interval, 95%.
    first_only, second_only : images that only the one has right.
    p, p_holm : exact McNemar, two-sided; corrected for all pairs (see :func:`holm`).
    distinguishable : ``p_holm`` is below ``ALPHA``.
    detectable : the difference that all pairs tested together could show, see :func:`detectable`.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    first_only: int
    second_only: int
    p: float
    p_holm: float
    distinguishable: bool
    detectable: float


def compare(correct: Mapping[str, NDArray[np.bool_]]) -> list[Pair]:
    """Every pair of heads, in the mapping's order, all tested together.

    Parameters
    ----------
    correct : (n,) by key: which of the same n test images a head has right.
    """
    keys = list(combinations(correct, 2))
    counts = [discordant(correct[one], correct[other]) for one, other in keys]
    p = [mcnemar(*only) for only in counts]
    pairs = []
    for (first, second), only, raw, corrected in zip(keys, counts, p, holm(p), strict=True):
        images = len(correct[first])
        low, high = bootstrap_difference(*only, images)
        pairs.append(
            Pair(
                first=first,
                second=second,
                difference=(only[0] - only[1]) / images,
                low=low,
                high=high,
                first_only=only[0],
                second_only=only[1],
                p=raw,
                p_holm=corrected,
                distinguishable=corrected < ALPHA,
                detectable=detectable(sum(only), images, len(keys)),
            )
        )
    return pairs


def discordant(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> tuple[int, int]:
    """How many images the one alone has right, and how many the other alone; both (n,)."""
    return int((one & ~other).sum()), int((other & ~one).sum())


def mcnemar(first_only: int, second_only: int) -> float:
    """Exact two-sided p: of images that one head alone has right, each has half of them.

    Q. McNemar, Note on the sampling error of the difference between correlated proportions or
    percentages, 1947. By SciPy's binomial test; 1 without any such image.
    """
    from scipy.stats import binomtest

    both = first_only + second_only
    return float(binomtest(first_only, both).pvalue) if both else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for being several, in their order; valid however they depend on each other.

    S. Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    order = np.argsort(p, kind="stable")
    steps = np.asarray(p, dtype=np.float64)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return [float(value) for value in corrected]


def bootstrap_difference(
    first_only: int, second_only: int, images: int, seed: int = 0
) -> tuple[float, float]:
    """Paired percentile bootstrap interval, 95%, of the difference in accuracy over test images.

    The difference depends on an image through who has it right alone, so drawing images with
    replacement is one multinomial draw of (first only, second only, rest): no n-sized arrays. Half
    of the draws are made with the heads swapped, so that swapping them negates the interval.
    """
    rest = images - first_only - second_only
    there, back = (
        np.random.default_rng(seed).multinomial(images, np.array(cells) / images, size=DRAWS // 2)
        for cells in ((first_only, second_only, rest), (second_only, first_only, rest))
    )
    low, high = interval(np.concatenate([there[:, 0] - there[:, 1], back[:, 1] - back[:, 0]]) / images)
    return float(low), float(high)


def detectable(differing: int, images: int, tests: int = 1) -> float:
    """The smallest difference in accuracy that McNemar's test would find on such a test set.

    With probability ``POWER`` at two-sided ``ALPHA / tests``, which is what the first of so many pairs
    must pass (see :func:`holm`), by normal approximation (for a single pair the exact test finds it with
    0.77 to 0.80); R. J. Connor, Sample size for testing differences in
    proportions for the paired-sample design, 1987, page 209, solved for the difference::

        sqrt(n) * difference = z_alpha * sqrt(rate) + z_beta * sqrt(rate - difference ** 2)

    ``rate`` is the observed share of ``differing`` images, those that one head alone has right. No
    difference can be larger than the rate. So where the rate is too low for any to be found (no
    discordant image at all, say), it is as high as it must be for one where all of them fall to one
    side: ``rate = difference``, for a single pair about 8 images.
    """
    from scipy.stats import norm

    alpha, beta = norm.ppf(1 - ALPHA / (2 * tests)), norm.ppf(POWER)
    if images <= alpha**2:
        return 1.0
    width = images + beta**2
    root = (np.sqrt((alpha * beta) ** 2 + width * (images - alpha**2)) - alpha * beta) / width
    rate = max(differing / images, 1 - root**2)  # root is sqrt(1 - difference) where rate = difference
    difference = np.sqrt(rate) * (alpha * np.sqrt(images) + beta * np.sqrt(width - alpha**2)) / width
    return float(min(1.0, difference))
