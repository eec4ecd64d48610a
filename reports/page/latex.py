"""A table for a paper: one row a configuration, and text from data as LaTeX prints it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from reports.entry import Entry
from reports.report import Group
from reports.statistics.ranking import Seeds

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    "<": r"\textless{}",  # this, | and > are other glyphs in LaTeX's default font encoding
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\char34{}",  # a shorthand in several languages of babel
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


@dataclass(frozen=True)
class Row:
    """A configuration in the table.

    Attributes
    ----------
    head : its name; with what tells it from others of its head on the same embedding.
    embedding : what of its embedding is not the same in every row.
    entry : of the lowest seed.
    seeds : their mean and spread; None where there is one seed.
    """

    head: str
    embedding: str
    entry: Entry
    seeds: Seeds | None


def rows(group: Group) -> list[Row]:
    """The configurations of a group, best first."""
    several = {seeds.ids[0]: seeds for seeds in group.seeds}
    alike = Counter((entry.head, group.embedding(entry)) for entry in group.configurations)
    found = []
    for entry in group.configurations:
        seeds, embedding = several.get(entry.id), group.embedding(entry)
        name = seeds.name if seeds else entry.name
        head = entry.head if alike[entry.head, embedding] == 1 else name
        found.append(Row(head, embedding, entry, seeds))
    return found


def latex(text: object) -> str:
    """Text from data, so that LaTeX prints it as it is: special characters escaped, ligatures broken."""
    escaped = re.sub(r'[\\~^`<>|"&%$#_{}]', lambda found: SPECIAL[found[0]], comment(text))
    return re.sub(r"([-',])(?=\1)", r"\1{}", escaped)


def comment(text: object) -> str:
    """Text on a single line, as a comment needs it: nothing in it ends the line."""
    return " ".join("".join(each if each.isprintable() else " " for each in str(text)).split())
