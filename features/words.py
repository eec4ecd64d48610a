"""Numbers in sentences."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 60  # characters of a value that a message repeats


def counted(count: int, noun: str, nouns: str = "") -> str:
    """A number with its noun: ``1 run``, ``1,000 runs``; ``nouns`` is the plural that takes no bare *s*."""
    return f"{count:,} {noun if count == 1 else nouns or f'{noun}s'}"


def listed(names: Sequence[str], most: int = 4) -> str:
    """The names, separated by commas; the rest beyond ``most`` is counted: ``a, b, c, d and 2 more``."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def short(value: str) -> str:
    """A value as a message repeats it: its beginning, where it is long."""
    return value if len(value) <= SHOWN else f"{value[:SHOWN]}..."


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8: names of files and JSON may hold what is none."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
