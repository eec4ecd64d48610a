"""Numbers in messages: ``1 run``, ``2 runs``, ``50GB``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from features.errors import UserError

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
SHOWN = 60  # characters of a value quoted in a message


def counted(count: int, noun: str, nouns: str = "") -> str:
    """A number with its noun: ``1 run``, ``1,000 runs``; ``nouns`` is an irregular plural."""
    return f"{count:,} {noun if count == 1 else nouns or f'{noun}s'}"


def listed(names: Sequence[str], most: int = 4) -> str:
    """The first ``most`` names, separated by commas, and the number of others: ``a, b, c, d and 2 more``."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def short(value: str) -> str:
    """A value for a message, truncated after ``SHOWN`` characters."""
    return value if len(value) <= SHOWN else f"{value[:SHOWN]}..."


def is_utf8(text: str) -> bool:
    """Whether text can be encoded as UTF-8: file names and JSON strings may contain lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def size(name: str, value: int | str) -> int:
    """A number of bytes, parsed from a number or from text such as ``50GB`` (decimal units).

    Parameters
    ----------
    name : the parameter, for the message.

    Raises
    ------
    UserError
        ``value`` cannot be parsed, or is less than one byte.
    """
    said = re.fullmatch(
        r"(\d{1,15}(?:\.\d{1,15})?) ?([KMGT]?B)?", str(value).strip(), re.IGNORECASE | re.ASCII
    )
    count = int(float(said[1]) * UNITS[(said[2] or "B").upper()]) if said else 0
    if count < 1:
        raise UserError(f"{name}={short(str(value))}: expected bytes, such as 50GB, 700MB or 1000000")
    return count
