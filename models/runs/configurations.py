"""Configurations: runs that differ in their seed alone, and which of them validation chooses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from models.runs.run import Run


class Ranked(NamedTuple):
    """One configuration as it competes on validation.

    Attributes
    ----------
    runs : its seeds, lowest first; the first is the one that predicts.
    accuracy : on validation, the mean over its seeds.
    """

    runs: tuple[Run, ...]
    accuracy: float


def ranked_on_validation(runs: Sequence[Run]) -> list[Ranked]:
    """The configurations of these runs by their mean validation accuracy, highest first.

    The one rule by which validation chooses: the first of them. Of equals the first is the first by
    folder name. A vote does not compete with others, as its weights were fitted on those very rows;
    where there are votes alone, they are ranked. All must have been validated on the same images.
    """
    competing = [run for run in runs if not run.members] or runs
    found = []
    for same in by_configuration(competing).values():
        seeds = tuple(sorted(same, key=lambda run: run.seed))
        mean = sum(run.val_accuracy for run in seeds) / len(seeds)
        found.append(Ranked(seeds, round(mean, 12)))  # so that rounding makes no difference between equals
    return sorted(found, key=lambda each: (-each.accuracy, each.runs[0].folder))


def reason(ranked: Sequence[Ranked]) -> str:
    """Why the first of :func:`ranked_on_validation` is chosen: a short phrase."""
    best = ranked[0]
    several = len(best.runs) > 1
    text = f"{'mean ' if several else ''}validation accuracy {best.accuracy:.4f}"
    text += f" over {len(best.runs)} seeds" if several else ""
    if best.runs[0].members:
        text += " on the images that its weights were fitted on"
    level = sum(each.accuracy == best.accuracy for each in ranked) - 1
    if len(ranked) == 1:
        return f"{text}, the only configuration that fits"
    tie = f", level with {level} and the first of them by name" if level else ""
    return f"{text}, the best of {len(ranked)} configurations{tie}"


def by_configuration(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each configuration, in their order, by its :func:`configuration`."""
    same: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        same[configuration(run)].append(run)
    return same


def configuration(run: Run) -> str:
    """Equal for runs that differ in their seed alone."""
    asked = {name: value for name, value in run.asked.items() if name != "random_state"}
    members = sorted(run.members.items())
    return repr((run.head, run.layers, run.fingerprint, sorted(asked.items()), run.grid, members))
