"""Runs that differ in their seed alone are one configuration."""

from __future__ import annotations

from statistics import mean, stdev

import pytest
from scipy.stats import sem, t

from reports.statistics.ranking import best_first
from tests.small_group import IMAGES, group_of, run


class TestOrder:
    @pytest.mark.parametrize(
        ("seeds", "order"),
        [
            ((190, 90), ["ridge", "dense", "dense"]),  # mean 140, below 150, though the best is above
            ((90, 190), ["ridge", "dense", "dense"]),
            ((140, 170), ["dense", "dense", "ridge"]),  # mean 155, though the first is below
            ((170, 140), ["dense", "dense", "ridge"]),
        ],
    )
    def test_of_several_seeds_the_mean_counts(self, seeds: tuple[int, int], order: list[str]) -> None:
        runs = [run("dense", range(count), seed) for seed, count in enumerate(seeds)]
        ordered = best_first([runs[1], run("ridge", range(150)), runs[0]])
        assert [each.head for each in ordered] == order
        assert [each.seed for each in ordered if each.head == "dense"] == [0, 1], "not by accuracy"
        group = group_of(runs[1], run("ridge", range(150)), runs[0])
        assert [entry.id for entry in group.entries] == [each.id for each in ordered]


class TestSeeds:
    def test_the_interval_is_scipys_of_students_t(self) -> None:
        counts = {4: 150, 2: 166, 9: 140}
        runs = [run("dense", range(count), seed) for seed, count in counts.items()]
        (seeds,) = group_of(*runs, run("ridge", range(199))).seeds
        values = [count / IMAGES for count in counts.values()]
        assert seeds.name == "dense"
        assert seeds.ids == (runs[1].id, runs[0].id, runs[2].id), "by seed"
        assert seeds.mean == pytest.approx(mean(values))
        assert seeds.deviation == pytest.approx(stdev(values))
        assert (seeds.low, seeds.high) == pytest.approx(t.interval(0.95, 2, mean(values), sem(values)))

    def test_settings_are_told_apart_and_the_best_mean_comes_first(self) -> None:
        plain = [run("dense", range(100 + seed), seed) for seed in (0, 1)]
        small = [run("dense", range(150 + seed), seed, {"batch_size": 32}) for seed in (0, 1)]
        one, two = group_of(*plain, *small).seeds
        assert (one.name, one.mean) == ("dense (batch size 32)", pytest.approx(150.5 / IMAGES))
        assert (two.name, two.mean) == ("dense", pytest.approx(100.5 / IMAGES))

    def test_one_seed_has_no_spread(self) -> None:
        assert group_of(run("dense", range(100)), run("ridge", range(90))).seeds == ()
