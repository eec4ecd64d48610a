"""The conclusion of a report in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from features.words import counted, listed
from reports.standing import COMPARED, Standing
from reports.statistics.paired import ALPHA, Pair

if TYPE_CHECKING:
    from reports.entry import Entry

UNJUDGED = "Votes do not compete on validation, as their weights were fitted there"
UNEQUAL = 2  # ratio of the largest to the smallest class above which balanced accuracy is added


def answer(
    entries: Sequence[Entry], ranked: Sequence[Standing], pairs: Sequence[Pair], chosen: Sequence[str]
) -> str:
    """The best head, its accuracy, and how certain that is, in a few sentences.

    Parameters
    ----------
    entries : best first.
    ranked : the configurations of the entries, best first.
    pairs : paired comparisons of the configurations.
    chosen : the ids that validation chooses (several in a tie). The highest of several test accuracies is
        biased upwards; the test accuracy of this choice is not.
    """
    names = {each.id: each.name for each in ranked}
    means = {each.id: each.value for each in ranked}
    best = ranked[0]
    spread = (
        " ("
        if best.deviation is None
        else f", the mean of {len(best.seeds)} seeds (standard deviation {100 * best.deviation:.1f} points; "
    )
    text = (
        f"{best.name} has the highest test accuracy: {best.value:.1%}{spread}95% interval "
        f"{best.low:.1%} to {best.high:.1%}).{_unequal(entries[0])}"
    )
    against = [pair for pair in pairs if pair.first == best.id]
    if not against:
        return text
    by_chance = [names[pair.second] for pair in against if not pair.distinguishable]
    worse = [names[pair.second] for pair in against if pair.distinguishable and pair.difference < 0]
    if worse:
        text += f" Its first seed, which paired tests take, is worse than {listed(worse)}."
    if by_chance:
        text += f" On this test set it is not distinguishable from {listed(by_chance)}."
    if not worse and not by_chance:
        next_best = against[0]
        compared, drawn = {best.id, next_best.second}, {each.id for each in ranked if each.seeds}
        others = "every other head here" if len(against) < COMPARED - 1 else f"the next {len(against)}"
        text += (
            f" It is better than {others}; than the next, {names[next_best.second]}, by "
            f"{100 * next_best.difference:.1f} points ({100 * next_best.low:.1f} to "
            f"{100 * next_best.high:.1f}{', first seeds' if compared & drawn else ''})."
        )
    votes = {entry.id for entry in entries if entry.members}
    if chosen[0] in votes:
        return f"{text} {UNJUDGED}: there is nothing else here that validation could choose."
    level = [names[id] for id in chosen if id != best.id]
    if best.id not in chosen:
        text += f" Validation alone would choose {names[chosen[0]]}, at {means[chosen[0]]:.1%} on test"
        return f"{text}. {UNJUDGED}." if best.id in votes else f"{text}."
    return f"{text} Validation alone chooses it too{f', level with {listed(level)}' if level else ''}."


def _unequal(best: Entry) -> str:
    """A sentence on balanced accuracy, if classes differ much in size."""
    sizes = [row["support"] for row in best.per_class if row["support"]]
    if max(sizes) <= UNEQUAL * min(sizes):
        return ""
    recall = best.balanced_accuracy
    return (
        f" Classes have {min(sizes):,} to {max(sizes):,} test images; its balanced accuracy, the mean "
        f"recall of the classes, is {recall['value']:.1%} ({recall['low']:.1%} to {recall['high']:.1%})."
    )


def elsewhere(found: dict[str, Any]) -> str:
    """A sentence on an :func:`~reports.evaluation.evaluation` of the run ``name`` on the images ``on``."""
    here, own, change = found["accuracy"], found["own_test"], found["difference"]
    if change["method"] == "paired":
        there, sure = "on the same images of its own test split", change["p"] < ALPHA
    else:
        there, sure = "on its own test split", not change["low"] <= 0 <= change["high"]
        if found["absent_classes"]:
            there += ", of the same classes"
    points = [f"{100 * change[end]:+.1f}" for end in ("value", "low", "high")]
    verdict = (
        f"a difference of {points[0]} points ({points[1]} to {points[2]}), which "
        f"{'is more than chance explains' if sure else 'chance alone may explain'}"
    )
    if change["method"] == "paired" and not change["here_only"] + change["there_only"]:
        verdict = "the very same are right"
    return (
        f"On {found['on']}, {found['name']} has {here['value']:.1%} of {counted(found['images'], 'image')} "
        f"right (95% interval {here['low']:.1%} to {here['high']:.1%}), against "
        f"{own['accuracy']['value']:.1%} {there}: {verdict}."
    )
