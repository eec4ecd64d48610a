"""Constructor parameters of heads: what each may be, and how a command line says it."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, NamedTuple

from features.errors import UserError
from models.heads.refusal import Refused

EXAMPLE = "settings=learning_rate=0.1,epochs=40"
GRID_EXAMPLE = "grid=C=0.001,0.01,0.1"


class Rule(NamedTuple):
    """What one parameter may be: in words, and as a test of a value."""

    words: str
    holds: Callable[[Any], bool]


FLAG = Rule("True or False", lambda value: isinstance(value, bool))


def number(low: float, below: float = math.inf, including: bool = True) -> Rule:
    """A finite number from ``low`` (or, not ``including`` it, above it) and below ``below``."""
    words = f"a number {'from' if including else 'above'} {low:g}"
    return Rule(
        words + ("" if below == math.inf else f", below {below:g}"),
        lambda value: _is(value, Real) and (low <= value if including else low < value) and value < below,
    )


def positive() -> Rule:
    """A finite number above 0."""
    return number(0, including=False)


def share() -> Rule:
    """A number from 0 to 1, both included."""
    return Rule("a number from 0 to 1", lambda value: _is(value, Real) and 0 <= value <= 1)


def whole(low: int, high: int = 2**31 - 1) -> Rule:
    """A whole number from ``low`` to ``high``, both included."""
    words = f"a whole number from {low} to {high:,}"
    return Rule(words, lambda value: _is(value, Integral) and low <= value <= high)


def one_of(*known: str) -> Rule:
    """One of these words."""
    return Rule(f"one of {', '.join(known)}", lambda value: isinstance(value, str) and value in known)


def optional(rule: Rule) -> Rule:
    """``None``, or what the rule says."""
    return Rule(f"None or {rule.words}", lambda value: value is None or rule.holds(value))


def automatic(rule: Rule) -> Rule:
    """``auto``, or what the rule says."""
    return Rule(f"auto or {rule.words}", lambda value: value == "auto" or rule.holds(value))


def several(rule: Rule) -> Rule:
    """Any number of what the rule says, in parentheses."""
    return Rule(
        f"in parentheses, each {rule.words}",
        lambda value: isinstance(value, tuple | list) and all(map(rule.holds, value)),
    )


BALANCED = "balanced"
CLASS_WEIGHT = Rule(
    f"None, {BALANCED}, or from Python a dictionary of a weight for each class",
    lambda value: value is None or isinstance(value, dict) or (isinstance(value, str) and value == BALANCED),
)


def check(estimator: Any, **rules: Rule) -> None:
    """Hold each parameter of an estimator to its rule.

    Raises
    ------
    Refused
        One breaks it: which one, what was expected, what came.
    """
    for name, rule in rules.items():
        value = getattr(estimator, name)
        if not rule.holds(value):
            raise Refused(f"{name}={value}: expected {rule.words}")


def parse(text: str) -> dict[str, Any]:
    """``learning_rate=0.1,hidden=(256,128)`` as values by name.

    Values are Python literals; what is none is a word. A comma within parentheses belongs to the
    value.

    Raises
    ------
    UserError
        A part is no ``name=value``, or a name comes twice.
    """
    found: dict[str, Any] = {}
    for part in _parts(text):
        name, sign, value = (piece.strip() for piece in part.partition("="))
        if not re.fullmatch(r"[A-Za-z]\w*", name) or not sign or not value:
            raise UserError(f"settings={text}: {part.strip()!r} is no parameter=value; expected {EXAMPLE}")
        if name in found:
            raise UserError(f"settings={text}: {name} comes twice; name it once")
        found[name] = _literal(value)
    return found


def parse_grid(text: str) -> dict[str, tuple[Any, ...]]:
    """``C=0.001,0.01,0.1`` as the values of one parameter.

    Raises
    ------
    UserError
        It is no ``name=value,value``.
    """
    name, _, values = (piece.strip() for piece in text.partition("="))
    found = tuple(_literal(value.strip()) for value in _parts(values) if value.strip())
    if not re.fullmatch(r"[A-Za-z]\w*", name) or not found:
        raise UserError(f"grid={text}: expected a parameter and its values, as in {GRID_EXAMPLE}")
    return {name: found}


def written(settings: Mapping[str, Any]) -> str:
    """What :func:`parse` reads as these settings."""
    return ",".join(f"{name}={value}" for name, value in settings.items())


def shown(value: Any) -> str:
    """A value as people read it: a number in its shortest form, anything else as it is."""
    return f"{value:g}" if _is(value, Real) else str(value)


def on_a_scale(values: Iterable[Any]) -> bool:
    """Whether all are numbers, which have a between and a beyond; words, flags and None have neither."""
    return all(_is(value, Real) for value in values)


def like(value: Any, default: Any) -> Any:
    """A value in the type that a parameter with this default has, where that is the same value."""
    if isinstance(default, float) and _is(value, Integral):
        return float(value)
    if isinstance(default, tuple):
        return tuple(value) if isinstance(value, tuple | list) else (value,)
    return value


def _parts(text: str) -> list[str]:
    """Cut at the commas that stand in no parentheses; nothing of an empty text."""
    parts, depth = [""], 0
    for char in text:
        depth += (char in "([") - (char in ")]")
        if char == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += char
    return parts if text.strip() else []


def _literal(text: str) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    return text if value in (math.inf, -math.inf) else value  # too large for a float: refused as it was typed


def _is(value: Any, kind: type) -> bool:
    """Whether a value is a finite number of this kind; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, kind):
        return False
    try:
        return math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # an integer no float can hold
        return False
