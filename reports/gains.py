"""The gain in accuracy of each step of the ladder, on the same test images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from models.ladder import RUNGS, matches
from models.runs.run import Run
from reports.entry import Entry
from reports.statistics.paired import bootstrap_difference, discordant
from reports.statistics.ranking import is_right, precision_of


@dataclass(frozen=True)
class Gain:
    """One step of the ladder.

    ``gain`` is the difference in accuracy to the rung below, with its paired bootstrap 95% interval; all
    three are None for the first rung, and if the rung below has no run.
    """

    title: str
    id: str
    value: float
    low: float
    high: float
    gain: float | None
    gain_low: float | None
    gain_high: float | None


def ladder(firsts: Sequence[Run], entries: Sequence[Entry]) -> list[Gain]:
    """The rungs that have runs, all with the same precision, stored dtype and weights.

    Parameters
    ----------
    firsts : the runs with the lowest seed of each configuration.
    entries : their entries.

    Returns
    -------
    list of Gain
        Empty for fewer than three rungs.
    """
    ways: dict[tuple[str, str], dict[int, Run]] = defaultdict(dict)
    for each in sorted(firsts, key=lambda each: each.id):
        for place, rung in enumerate(RUNGS):
            if matches(rung, each):
                ways[precision_of(each.spec), each.spec["weights"]].setdefault(place, each)
    climbed = max(ways.values(), key=len, default={})
    by_id = {entry.id: entry for entry in entries}
    found: list[Gain] = []
    below: Run | None = None
    for place, rung in enumerate(RUNGS):
        run = climbed.get(place)
        if run is not None:
            gain, low, high = (None, None, None) if below is None else _gain(run, below)
            found.append(
                Gain(rung.title, run.id, **by_id[run.id].accuracy, gain=gain, gain_low=low, gain_high=high)
            )
        if not rung.sibling:
            below = run
    return found if len(found) > 2 else []


def _gain(run: Run, below: Run) -> tuple[float, float, float]:
    """The difference in accuracy to another run on the same images, and its paired 95% interval."""
    only = discordant(is_right(run), is_right(below))
    images = len(run.test_labels)
    return ((only[0] - only[1]) / images, *bootstrap_difference(*only, images))
