"""Configurations (runs that differ only in their seed), and the choice among them on validation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from models.runs.run import Run


class Ranked(NamedTuple):
    """A configuration with its validation accuracy.

    Attributes
    ----------
    runs : its runs, by ascending seed; the first one represents it.
    accuracy : mean validation accuracy over its seeds.
    """

    runs: tuple[Run, ...]
    accuracy: float


def ranked_on_validation(runs: Sequence[Run]) -> list[Ranked]:
    """The configurations of these runs by mean validation accuracy, highest first.

    The first one is chosen, here and in all commands. Ties are broken by folder name. Votes are only ranked
    if there are no other runs, because their weights were fitted on the validation rows. All runs must have
    the same validation images.
    """
    competing = [run for run in runs if not run.members] or runs
    found = []
    for same in by_configuration(competing).values():
        seeds = tuple(sorted(same, key=lambda run: run.seed))
        mean = sum(run.val_accuracy for run in seeds) / len(seeds)
        found.append(Ranked(seeds, round(mean, 12)))  # so that ties do not depend on rounding
    return sorted(found, key=lambda each: (-each.accuracy, each.runs[0].folder))


def reason(ranked: Sequence[Ranked]) -> str:
    """Why the first of :func:`ranked_on_validation` is chosen, in a phrase."""
    best = ranked[0]
    several = len(best.runs) > 1
    text = f"{'mean ' if several else ''}validation accuracy {best.accuracy:.4f}"
    text += f" over {len(best.runs)} seeds" if several else ""
    if best.runs[0].members:
        text += " on the images that its weights were fitted on"
    level = sum(each.accuracy == best.accuracy for each in ranked) - 1
    if len(ranked) == 1:
        return f"{text}, the only configuration that fits"
    tie = f", tied with {level} and first by name" if level else ""
    return f"{text}, the best of {len(ranked)} configurations{tie}"


def by_configuration(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each configuration, in the given order, by :func:`configuration`."""
    same: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        same[configuration(run)].append(run)
    return same


def configuration(run: Run) -> str:
    """A key that is equal for runs that differ only in their seed."""
    asked = {name: value for name, value in run.asked.items() if name != "random_state"}
    members = sorted(run.members.items())
    return repr((run.head, run.layers, run.fingerprint, sorted(asked.items()), run.grid, members))
