"""The ladder in a report: what each step brings over the one it stands on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from models.ladder import Rung
from models.runs.run import Run
from reports import gains
from tests.small_group import SPEC, drawn_again, group_of, run

UNIT = {"layers": "block5", "preprocess": "imagenet", "image_size": 32}
STEPS = (
    Rung("the floor", UNIT, "centroid"),
    Rung("a side step", UNIT, "ridge", {"alpha": 1e5}, sibling=True),
    Rung("another", UNIT, "ridge", {"alpha": 1e3}, sibling=True),
    Rung("a better head", UNIT, "ridge"),
    Rung("more layers", UNIT | {"layers": "block3,block5"}, "ridge"),
)
RIGHT = (range(80), range(100, 140), range(90), range(20, 140), range(10, 150))


def climbed(places: Sequence[int] = range(5), **changes: Any) -> list[Run]:
    """A run on each of these steps."""
    return [
        run(step.head, RIGHT[place], settings=step.settings, **{"layers": layers_of(step), **changes})
        for place, step in enumerate(STEPS)
        if place in places
    ]


def layers_of(step: Rung) -> tuple[str, ...]:
    return tuple(step.features["layers"].split(","))


class TestLadder:
    @pytest.fixture(autouse=True)
    def steps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gains, "RUNGS", STEPS)

    def test_each_gain_is_over_the_rung_it_stands_on_and_no_rung_stands_on_a_sibling(self) -> None:
        """80, 40, 90, 120 and 140 images right: the next three stand on the 80, the last on the 120."""
        runs = climbed()
        ladder = group_of(*reversed(runs)).ladder
        assert [(rung.title, rung.id) for rung in ladder] == [
            (step.title, each.id) for step, each in zip(STEPS, runs, strict=True)
        ]
        assert [rung.value for rung in ladder] == pytest.approx([0.40, 0.20, 0.45, 0.60, 0.70])
        assert [rung.gain for rung in ladder[1:]] == pytest.approx([-0.20, 0.05, 0.20, 0.10])
        for rung, one, other in zip(ladder[1:], (1, 2, 3, 4), (0, 0, 0, 3), strict=True):
            expected = drawn_again(RIGHT[one], RIGHT[other])
            assert [rung.gain_low, rung.gain_high] == pytest.approx(expected, abs=0.011), rung.title
        assert (ladder[0].gain, ladder[0].gain_low, ladder[0].gain_high) == (None, None, None)

    def test_a_gain_and_its_interval_are_those_of_the_pair(self) -> None:
        group = group_of(*climbed())
        (pair,) = [
            pair
            for pair in group.pairs
            if {pair.first, pair.second} == {group.ladder[place].id for place in (3, 4)}
        ]
        last = group.ladder[-1]
        assert pair.first == last.id
        assert (last.gain, last.gain_low, last.gain_high) == (pair.difference, pair.low, pair.high)

    def test_each_accuracy_has_the_interval_it_has_elsewhere(self) -> None:
        group = group_of(*climbed())
        for rung in group.ladder:
            assert group.entry(rung.id).accuracy == {"value": rung.value, "low": rung.low, "high": rung.high}

    def test_where_the_rung_below_was_not_climbed_no_gain_is_told(self) -> None:
        ladder = group_of(*climbed((0, 1, 4))).ladder
        assert [rung.title for rung in ladder] == ["the floor", "a side step", "more layers"]
        assert [rung.gain is None for rung in ladder] == [True, False, True]

    def test_two_rungs_are_no_ladder(self) -> None:
        assert group_of(*climbed((0, 3))).ladder == ()

    @pytest.mark.parametrize("name", ["precision", "weights"])
    def test_all_rungs_are_of_one_precision_and_one_set_of_weights(self, name: str) -> None:
        other = climbed(spec=SPEC | {name: "other"}, fingerprint="0" * 64)
        mine = climbed(range(4))
        ladder = group_of(*mine, *other).ladder
        assert [rung.id for rung in ladder] == [each.id for each in other]
        assert [rung.id for rung in group_of(*mine, *other[2:]).ladder] == [each.id for each in mine]

    def test_of_several_seeds_the_first_is_on_the_rung(self) -> None:
        """Not the one whose id comes first."""
        floor, *rest = climbed()
        seeds = sorted((replace(floor, seed=seed) for seed in range(9)), key=lambda each: each.id)
        later, first = next(two for two in combinations(seeds, 2) if two[0].seed > two[1].seed)
        assert group_of(later, first, *rest).ladder[0].id == first.id
