"""Paired comparisons agree with published values, with brute force, and with themselves."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import binom, norm

from reports.statistics.paired import bootstrap_difference, compare, detectable, holm, mcnemar


@pytest.mark.parametrize(
    ("first_only", "second_only", "p"),
    [
        # statsmodels, stats/tests/test_nonparametric.py::test_mcnemar_exact
        (121, 59, 0.000004),
        (70, 59, 0.378688),
        (80, 59, 0.089452),
        (30, 60, 0.00206),
        (10, 30, 0.002221),
        (10, 10, 1.0),
        (6, 16, 0.052479),  # R contingencytables, McNemar_exact_cond_test_paired_2x2(cavo_2012)
        (10, 2, 158 / 4096),  # by hand: 2 * (1 + 12 + 66) / 2 ** 12
        (6, 0, 2 / 64),
        (5, 0, 2 / 32),
        (0, 0, 1.0),
    ],
)
def test_mcnemar_is_as_published(first_only: int, second_only: int, p: float) -> None:
    assert mcnemar(first_only, second_only) == pytest.approx(p, abs=6e-7)
    assert mcnemar(second_only, first_only) == pytest.approx(p, abs=6e-7)


def test_mcnemar_is_twice_the_binomial_tail() -> None:
    for more, fewer in [(9, 4), (120, 80), (1000, 900), (3, 3), (1, 0)]:
        tail = binom.cdf(fewer, more + fewer, 0.5)
        assert mcnemar(more, fewer) == pytest.approx(min(1, 2 * tail), rel=1e-9)


def test_mcnemar_of_equal_heads_is_seldom_small() -> None:
    rng = np.random.default_rng(0)
    p = [mcnemar(int(one), 200 - int(one)) for one in rng.binomial(200, 0.5, 500)]
    assert np.mean(np.array(p) < 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 500)


@pytest.mark.parametrize(
    ("p", "corrected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # 4 * .005, 3 * .01, 2 * .03, 1 * .04 -> .06
        ([0.5, 0.003, 0.32, 0.054, 0.0003], [0.64, 0.012, 0.64, 0.162, 0.0015]),  # pingouin.holm, example
        ([0.319, 0.201, 0.4, 0.374, 0.113], [0.957, 0.804, 0.957, 0.957, 0.565]),  # stdlib padjust, example
        ([0.6, 0.7, 0.8], [1.0, 1.0, 1.0]),
        ([0.01, 0.01, 0.2], [0.03, 0.03, 0.2]),
        ([0.04], [0.04]),
        ([], []),
    ],
)
def test_holm_is_as_worked_out_by_hand(p: list[float], corrected: list[float]) -> None:
    assert holm(p) == pytest.approx(corrected)


def test_holm_keeps_the_order_and_lies_between_raw_and_bonferroni() -> None:
    p = np.random.default_rng(1).random(40) ** 4
    corrected = np.array(holm(list(p)))
    assert (np.diff(corrected[np.argsort(p)]) >= 0).all()
    assert (corrected >= p).all()
    assert (corrected <= np.minimum(1, 40 * p) + 1e-12).all()


def heads(first_only: int, second_only: int, both: int, neither: int) -> dict[str, np.ndarray]:
    counts = [first_only, second_only, both, neither]
    return {
        "one": np.repeat([True, False, True, False], counts),
        "other": np.repeat([False, True, True, False], counts),
    }


def test_the_interval_is_that_of_drawing_images() -> None:
    correct = heads(60, 35, 250, 55)
    (pair,) = compare(correct)
    rng = np.random.default_rng(2)
    difference = correct["one"].astype(int) - correct["other"]
    values = [difference[rng.integers(0, 400, 400)].mean() for _ in range(4000)]
    assert (pair.low, pair.high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.006)
    assert pair.difference == pytest.approx(25 / 400)


def test_the_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    covered = []
    for trial in range(300):
        first_only, second_only, _ = rng.multinomial(500, [0.12, 0.08, 0.8])
        low, high = bootstrap_difference(int(first_only), int(second_only), 500, seed=trial)
        covered.append(low <= 0.04 <= high)
    assert 0.92 <= np.mean(covered) <= 0.98


@pytest.mark.parametrize("counts", [(60, 35, 250, 55), (20, 20, 40, 20), (0, 7, 3, 0)])
def test_swapping_the_heads_negates(counts: tuple[int, int, int, int]) -> None:
    correct = heads(*counts)
    (there,) = compare(correct)
    (back,) = compare({"other": correct["other"], "one": correct["one"]})
    assert (there.first, there.second) == (back.second, back.first) == ("one", "other")
    assert (there.first_only, there.second_only) == (back.second_only, back.first_only) == counts[:2]
    assert (there.difference, there.low, there.high) == pytest.approx(
        (-back.difference, -back.high, -back.low), abs=1e-12
    )
    assert (there.p, there.p_holm, there.detectable) == (back.p, back.p_holm, back.detectable)


def test_every_pair_in_order_and_corrected_together() -> None:
    rng = np.random.default_rng(4)
    shared = rng.random(1000)
    correct = {
        name: shared + rng.normal(0, 0.1, 1000) < rate
        for name, rate in [("c", 0.9), ("a", 0.8), ("b", 0.79), ("same", 0.0)]
    }
    correct["same"] = correct["b"].copy()
    pairs = compare(correct)
    assert [(pair.first, pair.second) for pair in pairs] == [
        ("c", "a"), ("c", "b"), ("c", "same"), ("a", "b"), ("a", "same"), ("b", "same"),
    ]  # fmt: skip
    assert [pair.p_holm for pair in pairs] == pytest.approx(holm([pair.p for pair in pairs]))
    for pair in pairs:
        accuracy = correct[pair.first].mean() - correct[pair.second].mean()
        assert pair.difference == pytest.approx(accuracy)
        assert pair.low <= pair.difference <= pair.high
        assert pair.distinguishable == (pair.p_holm < 0.05)
        assert pair.detectable == detectable(pair.first_only + pair.second_only, 1000, len(pairs))
    assert pairs[0].distinguishable
    assert (pairs[-1].p, pairs[-1].low, pairs[-1].high) == (1.0, 0.0, 0.0)
    assert not pairs[-1].distinguishable
    assert compare({"alone": correct["a"]}) == compare({}) == []
    json.dumps([asdict(pair) for pair in pairs])
    assert compare(correct) == pairs, "same seed, same numbers"


class TestDetectable:
    @staticmethod
    def images(rate: float, difference: float, tests: int = 1) -> float:
        """How many are needed: Connor 1987, page 209; of several tests, each at its share of 0.05."""
        alpha = norm.ppf(1 - 0.025 / tests)
        root = alpha * rate**0.5 + norm.ppf(0.8) * (rate - difference**2) ** 0.5
        return float((root / difference) ** 2)

    @pytest.mark.parametrize(
        ("rate", "difference", "needed"),
        [
            (0.50, 0.40, 22),  # R MESS, test_power_mcnemar_test.R: paid 0.05, psi 9, rounded
            (0.45, 0.15, 155),  # clinicaltrials-tools, McNemar sample size: 0.30 and 0.15, rounded up
        ],
    )
    def test_the_formula_is_as_published(self, rate: float, difference: float, needed: int) -> None:
        assert self.images(rate, difference) == pytest.approx(needed, abs=1)

    @pytest.mark.parametrize("tests", [1, 6, 66])
    @pytest.mark.parametrize(("discordant", "images"), [(20, 22), (70, 155), (900, 10_000), (40, 100)])
    def test_it_solves_the_formula(self, discordant: int, images: int, tests: int) -> None:
        found = detectable(discordant, images, tests)
        assert self.images(discordant / images, found, tests) == pytest.approx(images)

    @pytest.mark.parametrize("tests", [1, 6, 66])
    @pytest.mark.parametrize("images", [16, 50, 1000])
    def test_with_too_few_discordant_images_all_fall_to_one_side(self, images: int, tests: int) -> None:
        found = detectable(0, images, tests)
        assert self.images(found, found, tests) == pytest.approx(images)

    @pytest.mark.parametrize(("tests", "most"), [(1, 3), (6, 6), (66, 11)])
    def test_of_a_few_images_none_is_enough(self, tests: int, most: int) -> None:
        """Where all fall to one side they must be more than the squared quantile, 3.84 for one test."""
        assert [detectable(images, images, tests) for images in range(1, most + 1)] == [1.0] * most
        assert detectable(most + 1, most + 1, tests) < 1

    @pytest.mark.parametrize(("discordant", "images"), [(200, 2000), (100, 400), (20, 2000), (0, 1000)])
    def test_the_exact_test_finds_it_in_four_of_five(self, discordant: int, images: int) -> None:
        difference = detectable(discordant, images)
        rate = max(discordant / images, difference)
        power = 0.0
        for count in range(images + 1):
            chance = binom.pmf(count, images, rate)
            if chance > 1e-7:
                fewer = binom.ppf(0.025, count, 0.5) - 1  # most on one side that is still significant
                fewer += 2 * binom.cdf(fewer + 1, count, 0.5) < 0.05
                share = (1 + difference / rate) / 2
                power += chance * binom.cdf(fewer, count, 1 - share)
        assert power == pytest.approx(0.79, abs=0.02)

    def test_it_is_never_more_than_the_discordant_images_allow(self) -> None:
        assert detectable(0, 10_000) == detectable(1, 10_000) == pytest.approx(7.85e-4, rel=0.01)
        for images in (1, 2, 3, 4, 5, 10, 100, 10_000):
            found = [detectable(count, images) for count in range(0, images + 1, max(1, images // 50))]
            assert (np.diff(found) >= 0).all()
            assert all(0 < value <= 1 for value in found)
