"""Configurations among others, and which of them share an axis."""

from __future__ import annotations

import pytest

from reports.standing import Standing, on_one_axis
from tests.small_group import group_of, run


def standing(value: float, head: str = "ridge") -> Standing:
    return Standing("", head, head, value, value - 0.01, value + 0.01, (), None, False)


class TestStandings:
    def test_seeds_stand_as_their_mean_under_the_name_without_the_seed(self) -> None:
        """190 and 170 of 200 images: 90% in the mean, 10 points / sqrt(2) around it."""
        group = group_of(run("dense", range(190), 0), run("dense", range(170), 1), run("ridge", range(150)))
        dense, ridge = group.standings
        assert (dense.name, dense.id) == ("dense", group.entries[0].id)
        assert dense.value == pytest.approx(0.9)
        assert dense.seeds == (0.95, 0.85)
        assert dense.deviation == pytest.approx(0.1 / 2**0.5)
        assert (ridge.value, ridge.seeds, ridge.deviation) == (0.75, (), None)
        assert (ridge.low, ridge.high) == pytest.approx(
            (group.entries[2].accuracy["low"], group.entries[2].accuracy["high"])
        )

    def test_level_are_the_best_and_what_paired_tests_cannot_tell_from_it(self) -> None:
        group = group_of(run("ridge", range(160)), run("lda", range(157)), run("centroid", range(40)))
        assert [(each.name, each.level) for each in group.standings] == [
            ("ridge", True),
            ("lda", True),
            ("centroid", False),
        ]


class TestOneAxis:
    @pytest.mark.parametrize(
        ("values", "drawn"),
        [
            ((0.83, 0.82, 0.80, 0.76), 4),
            ((0.83, 0.82, 0.80, 0.60), 3),  # a gap of 20 of 25 points
            ((0.83, 0.82, 0.80, 0.61, 0.60), 3),
            ((0.83, 0.82, 0.80, 0.60, 0.10), 3),  # first the lowest, then the one above it
            ((0.80, 0.10), 2),  # two are drawn wherever there are two
            ((0.80, 0.11, 0.10), 3),
            ((0.80,), 1),
        ],
    )
    def test_no_gap_takes_more_than_half_of_it(self, values: tuple[float, ...], drawn: int) -> None:
        ranked = [standing(value) for value in values]
        assert on_one_axis(ranked) == tuple(ranked[:drawn])

    def test_a_floor_is_on_it_only_where_nothing_else_is(self) -> None:
        prior = standing(0.79, "prior")
        assert on_one_axis([standing(0.8), prior]) == (standing(0.8),)
        assert on_one_axis([prior]) == (prior,)

    def test_twelve_are_on_it_at_most(self) -> None:
        assert len(on_one_axis([standing(0.8 - 0.001 * place) for place in range(20)])) == 12
