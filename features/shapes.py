"""Validation of JSON files: keys, and the type and range of each value."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from features.files import open_regular

DEEPEST = 100  # nested lists and objects
LARGEST = 2**26  # bytes of a file; 100 KB is usual at most
_Check = Callable[[Any], bool]
Shape = dict[str, Any] | list[Any] | _Check  # object with keys, list of values, or predicate


def read(path: Path) -> Any:
    """The JSON value in a file.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        The file is not JSON in UTF-8, is nested too deep, or is larger than ``LARGEST``.
    """
    with open_regular(path) as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"larger than {LARGEST:,} bytes")
    return parsed(content)


def parsed(content: bytes | str) -> Any:
    """The JSON value of a text.

    Raises
    ------
    ValueError
        The text is not JSON in UTF-8, or is nested too deep.
    """
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError("nested too deep") from None
    _refuse_depth(value, 0)
    return value


def misfit(value: Any, shape: Shape, at: str = "") -> str | None:
    """The first place where a value does not fit a shape, such as ``sweep[3].accuracy``, or None."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return at or "the whole"
        for name in {**shape, **value}:
            place = f"{at}.{name}" if at else name
            if name not in shape or name not in value:
                return place
            if (found := misfit(value[name], shape[name], place)) is not None:
                return found
        return None
    if isinstance(shape, list):
        if not isinstance(value, list):
            return at or "the whole"
        parts = (misfit(item, shape[0], f"{at}[{place}]") for place, item in enumerate(value))
        return next((found for found in parts if found is not None), None)
    return None if shape(value) else at or "the whole"


def fits(value: Any, shape: Shape) -> bool:
    """Whether a JSON value has the keys of a shape, and values of the required types and ranges."""
    return misfit(value, shape) is None


def anything(value: Any) -> bool:
    return True


def text(value: Any) -> bool:
    return isinstance(value, str)


def flag(value: Any) -> bool:
    return isinstance(value, bool)


def sha256(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def count(least: int) -> _Check:
    """An integer of at least ``least`` that NumPy's int64 holds: JSON's may have thousands of digits."""
    return lambda value: type(value) is int and least <= value < 2**63


def number(low: float, high: float) -> _Check:
    """A number from ``low`` to ``high``; NaN fails."""
    return lambda value: type(value) in (int, float) and low <= value <= high


def none_or(shape: Shape) -> _Check:
    return lambda value: value is None or fits(value, shape)


def either(*shapes: Shape) -> _Check:
    return lambda value: any(fits(value, shape) for shape in shapes)


def some(shape: Shape) -> _Check:
    """A list of at least one value of a shape."""
    return lambda value: isinstance(value, list) and bool(value) and fits(value, [shape])


def mapping(shape: Shape) -> _Check:
    """An object with any keys, whose values have one shape."""
    return lambda value: isinstance(value, dict) and all(fits(item, shape) for item in value.values())


def having(shape: dict[str, Any]) -> _Check:
    """An object with these keys, and possibly others."""
    return lambda value: (
        isinstance(value, dict) and fits({name: value[name] for name in shape if name in value}, shape)
    )


def _refuse_depth(value: Any, depth: int) -> None:
    if depth > DEEPEST:
        raise ValueError("nested too deep")
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            _refuse_depth(part, depth + 1)
