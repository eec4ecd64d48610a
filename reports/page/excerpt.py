"""What a page shows of very many classes: the worst, as the rest stands in CSV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reports.entry import Entry

LISTED = 40  # classes up to which a table lists all
WORST = 20  # those it lists of more


def worst(per_class: Sequence[dict[str, Any]], metric: str = "f1") -> Sequence[dict[str, Any]]:
    """The rows of all classes, or the ``WORST`` by this metric of those that have images, worst first."""
    if len(per_class) <= LISTED:
        return per_class
    return sorted((row for row in per_class if row["support"]), key=lambda row: row[metric])[:WORST]


def classification_report(entry: Entry) -> str:
    """scikit-learn's text of an entry, with the lines of the :func:`worst` classes alone."""
    shown = worst(entry.per_class)
    if len(shown) == len(entry.per_class):
        return entry.text
    lines = entry.text.split("\n")
    first = 2  # below the titles and an empty line
    by_class = dict(zip((row["class"] for row in entry.per_class), lines[first:], strict=False))
    kept = [by_class[row["class"]] for row in shown]
    return "\n".join([*lines[:first], *kept, *lines[first + len(entry.per_class) :]])
