"""Paired comparison of heads on the same test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from reports.statistics.metrics import DRAWS, interval

ALPHA = 0.05  # familywise error rate of the tests of one table
POWER = 0.80  # of the test for a detectable difference


@dataclass(frozen=True)
class Pair:
    """Two heads on the same test images.

    Attributes
    ----------
    first, second : keys of the heads.
    difference : accuracy of the first minus that of the second; ``low`` and ``high`` are its 95% paired
        percentile bootstrap interval.
    first_only, second_only : numbers of images that only one of the two predicts correctly.
    p, p_holm : p-value of the exact two-sided McNemar test, and corrected for all pairs (:func:`holm`).
    distinguishable : whether ``p_holm`` is below ``ALPHA``.
    detectable : the smallest detectable difference when all pairs are tested, see :func:`detectable`.
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
    """Compare all pairs of heads, in the order of the mapping, with correction for multiple tests.

    Parameters
    ----------
    correct : for each head, by key, which of the same n test images it predicts correctly, (n,).
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
    """The numbers of images that only the one and only the other head predicts correctly; both (n,)."""
    return int((one & ~other).sum()), int((other & ~one).sum())


def mcnemar(first_only: int, second_only: int) -> float:
    """p-value of the exact two-sided McNemar test: discordant images favour both heads equally often.

    Q. McNemar, Note on the sampling error of the difference between correlated proportions or
    percentages, 1947. By SciPy's binomial test; 1 without discordant images.
    """
    from scipy.stats import binomtest

    both = first_only + second_only
    return float(binomtest(first_only, both).pvalue) if both else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction of p-values for multiple tests, in their order; valid under any dependence.

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
    """95% paired percentile bootstrap interval of the difference in accuracy.

    The difference depends only on the numbers of discordant images, so resampling images is a multinomial
    draw of (first only, second only, rest). Half of the draws are made with the heads swapped, so that
    swapping the heads negates the interval exactly.

    Parameters
    ----------
    first_only, second_only : numbers of discordant images, as from :func:`discordant`.
    images : number of test images.
    seed : of the draws.
    """
    rest = images - first_only - second_only
    there, back = (
        np.random.default_rng(seed).multinomial(images, np.array(cells) / images, size=DRAWS // 2)
        for cells in ((first_only, second_only, rest), (second_only, first_only, rest))
    )
    low, high = interval(np.concatenate([there[:, 0] - there[:, 1], back[:, 1] - back[:, 0]]) / images)
    return float(low), float(high)


def detectable(differing: int, images: int, tests: int = 1) -> float:
    """The smallest difference in accuracy that McNemar's test detects with probability ``POWER``.

    The test is two-sided at ``ALPHA / tests``, the first threshold of :func:`holm`. Normal approximation (for
    a single pair the exact test has a power of 0.77 to 0.80) of R. J. Connor, Sample size for testing
    differences in proportions for the paired-sample design, 1987, page 209, solved for the difference::

        sqrt(n) * difference = z_alpha * sqrt(rate) + z_beta * sqrt(rate - difference ** 2)

    ``rate`` is the observed share of discordant images, which the difference cannot exceed. If the rate is
    too low for any difference to be detected, for instance 0, the smallest rate is used for which a
    difference with all discordant images on one side is detected: ``rate = difference``, for a single pair
    about 8 images.

    Parameters
    ----------
    differing : number of discordant images.
    images : number of test images.
    tests : number of pairs tested together.
    """
    from scipy.stats import norm

    alpha, beta = norm.ppf(1 - ALPHA / (2 * tests)), norm.ppf(POWER)
    if images <= alpha**2:
        return 1.0
    width = images + beta**2
    root = (np.sqrt((alpha * beta) ** 2 + width * (images - alpha**2)) - alpha * beta) / width
    rate = max(differing / images, 1 - root**2)  # root is sqrt(1 - difference) for rate = difference
    difference = np.sqrt(rate) * (alpha * np.sqrt(images) + beta * np.sqrt(width - alpha**2)) / width
    return float(min(1.0, difference))
