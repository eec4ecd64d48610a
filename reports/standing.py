"""Standing: the rank of a configuration on one test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reports.statistics.metrics import wilson
from reports.statistics.paired import Pair
from reports.statistics.ranking import Seeds

if TYPE_CHECKING:
    from reports.entry import Entry

COMPARED = 12  # best configurations that are compared in pairs and drawn


@dataclass(frozen=True)
class Standing:
    """A configuration with its test accuracy, averaged over its seeds.

    Attributes
    ----------
    id, head : of the run with the lowest seed, which represents it in paired tests.
    name : without the seed.
    value, low, high : (mean) accuracy and its 95% Wilson interval.
    seeds : the accuracy of each seed; empty if there is only one.
    deviation : standard deviation over seeds; None if there is only one.
    level : whether it is the best, or not distinguishable from the best by paired tests.
    """

    id: str
    head: str
    name: str
    value: float
    low: float
    high: float
    seeds: tuple[float, ...]
    deviation: float | None
    level: bool


def standings(
    entries: Sequence[Entry], seeds: Sequence[Seeds], pairs: Sequence[Pair], images: int
) -> tuple[Standing, ...]:
    """The configurations of these entries, best first.

    Parameters
    ----------
    entries : best first, and the lowest seed of a configuration before the others.
    seeds, pairs : of these entries.
    images : number of test images.
    """
    several = {each.ids[0]: each for each in seeds}
    further = {id for each in seeds for id in each.ids[1:]}
    reached = {entry.id: entry.accuracy["value"] for entry in entries}
    level = {entries[0].id} | {
        pair.second for pair in pairs if pair.first == entries[0].id and not pair.distinguishable
    }
    found = []
    for entry in entries:
        if entry.id in further:
            continue
        same = several.get(entry.id)
        value = same.mean if same else entry.accuracy["value"]
        low, high = wilson(round(value * images), images)
        found.append(
            Standing(
                id=entry.id,
                head=entry.head,
                name=same.name if same else entry.name,
                value=value,
                low=low,
                high=high,
                seeds=tuple(reached[id] for id in same.ids) if same else (),
                deviation=same.deviation if same else None,
                level=entry.id in level,
            )
        )
    return tuple(found)


def on_one_axis(ranked: Sequence[Standing]) -> tuple[Standing, ...]:
    """The best configurations whose differences are visible on one axis, best first.

    Without ``prior``, at most ``COMPARED``, and none below a gap of more than half of the axis; but at least
    two if there are two.
    """
    heads = [each for each in ranked if each.head != "prior"][:COMPARED] or list(ranked)
    count = len(heads)
    while count > 2:
        axis = max(each.high for each in heads[:count]) - min(each.low for each in heads[:count])
        gaps = {place: heads[place - 1].value - heads[place].value for place in range(2, count)}
        place = max(gaps, key=lambda place: gaps[place])
        if gaps[place] <= axis / 2:
            break
        count = place
    return tuple(heads[:count])
