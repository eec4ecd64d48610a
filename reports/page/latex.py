"""The LaTeX table for a paper: its rows, one per configuration, and the escaping of text."""

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
    "<": r"\textless{}",  # <, > and | are other glyphs in LaTeX's default font encoding
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
    head : str
        Name of the head, with its distinguishing settings if other rows have the same head and embedding.
    embedding : str
        The properties of the embedding that are not the same in every row.
    entry : Entry
        The run with the lowest seed.
    seeds : Seeds or None
        Mean and standard deviation over seeds; None with a single seed.
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
    """Text that LaTeX prints unchanged: special characters are escaped, ligatures broken."""
    escaped = re.sub(r'[\\~^`<>|"&%$#_{}]', lambda found: SPECIAL[found[0]], comment(text))
    return re.sub(r"([-',])(?=\1)", r"\1{}", escaped)


def comment(text: object) -> str:
    """Text on a single line, for a comment: line ends and control characters become spaces."""
    return " ".join("".join(each if each.isprintable() else " " for each in str(text)).split())
