"""Excerpts for pages with many classes: the worst ones, as CSV files have all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reports.entry import Entry

LISTED = 40  # classes up to which a table has all of them
WORST = 20  # classes in a table otherwise


def worst(per_class: Sequence[dict[str, Any]], metric: str = "f1") -> Sequence[dict[str, Any]]:
    """The rows of all classes or, if there are many, of the worst ``WORST`` with images, worst first."""
    if len(per_class) <= LISTED:
        return per_class
    return sorted((row for row in per_class if row["support"]), key=lambda row: row[metric])[:WORST]


def classification_report(entry: Entry) -> str:
    """scikit-learn's classification report of an entry, reduced to the :func:`worst` classes."""
    shown = worst(entry.per_class)
    if len(shown) == len(entry.per_class):
        return entry.text
    lines = entry.text.split("\n")
    first = 2  # after the header and an empty line
    by_class = dict(zip((row["class"] for row in entry.per_class), lines[first:], strict=False))
    kept = [by_class[row["class"]] for row in shown]
    return "\n".join([*lines[:first], *kept, *lines[first + len(entry.per_class) :]])
