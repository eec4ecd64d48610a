"""Constructor parameters of heads: validation, and their syntax on the command line."""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, NamedTuple

from features.errors import UserError
from models.heads.refusal import Refused

EXAMPLE = "settings=learning_rate=0.1,epochs=40"
GRID_EXAMPLE = "grid=C=0.001,0.01,0.1"


class Rule(NamedTuple):
    """A constraint on a parameter: in words, and as a predicate."""

    words: str
    holds: Callable[[Any], bool]


FLAG = Rule("True or False", lambda value: isinstance(value, bool))


def number(low: float, below: float = math.inf, including: bool = True) -> Rule:
    """A finite number from ``low`` (exclusive if not ``including``) to ``below`` (exclusive)."""
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
    """An integer from ``low`` to ``high``, both included."""
    words = f"an integer from {low} to {high:,}"
    return Rule(words, lambda value: _is(value, Integral) and low <= value <= high)


def one_of(*known: str) -> Rule:
    """One of these words."""
    return Rule(f"one of {', '.join(known)}", lambda value: isinstance(value, str) and value in known)


def optional(rule: Rule) -> Rule:
    """``None``, or a value that meets the rule."""
    return Rule(f"None or {rule.words}", lambda value: value is None or rule.holds(value))


def automatic(rule: Rule) -> Rule:
    """``auto``, or a value that meets the rule."""
    return Rule(f"auto or {rule.words}", lambda value: value == "auto" or rule.holds(value))


def several(rule: Rule) -> Rule:
    """A sequence of values that meet the rule."""
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
    """Check parameters of an estimator against rules.

    Raises
    ------
    Refused
        A parameter violates its rule.
    """
    for name, rule in rules.items():
        value = getattr(estimator, name)
        if not rule.holds(value):
            raise Refused(f"{name}={value}: expected {rule.words}")


def parse(text: str) -> dict[str, Any]:
    """Parse ``learning_rate=0.1,hidden=(256,128)``.

    Values are Python literals; anything else is a string. Commas in parentheses belong to the value.

    Returns
    -------
    dict
        Values by name.

    Raises
    ------
    UserError
        A part is not ``name=value``, or a name occurs twice.
    """
    found: dict[str, Any] = {}
    for part in _parts(text):
        name, sign, value = (piece.strip() for piece in part.partition("="))
        if not re.fullmatch(r"[A-Za-z]\w*", name) or not sign or not value:
            raise UserError(f"settings={text}: {part.strip()!r} is not parameter=value; expected {EXAMPLE}")
        if name in found:
            raise UserError(f"settings={text}: {name} occurs twice; give it once")
        found[name] = _literal(value)
    return found


def parse_grid(text: str) -> dict[str, tuple[Any, ...]]:
    """Parse ``C=0.001,0.01,0.1``, the values of one parameter.

    Raises
    ------
    UserError
        The text is not ``name=value,value,...``.
    """
    name, _, values = (piece.strip() for piece in text.partition("="))
    found = tuple(_literal(value.strip()) for value in _parts(values) if value.strip())
    if not re.fullmatch(r"[A-Za-z]\w*", name) or not found:
        raise UserError(f"grid={text}: expected a parameter and its values, as in {GRID_EXAMPLE}")
    return {name: found}


def written(settings: Mapping[str, Any]) -> str:
    """Format settings for :func:`parse`."""
    return ",".join(f"{name}={value}" for name, value in settings.items())


def shown(value: Any) -> str:
    """Format a value for messages and labels: numbers in their shortest form."""
    return f"{value:g}" if _is(value, Real) else str(value)


def on_a_scale(values: Iterable[Any]) -> bool:
    """Whether all values are numbers, and so can be ordered; strings, flags and None cannot."""
    return all(_is(value, Real) for value in values)


def like(value: Any, default: Any) -> Any:
    """Convert a value to the type of the parameter's default: int to float, and a scalar to a tuple."""
    if isinstance(default, float) and _is(value, Integral):
        return float(value)
    if isinstance(default, tuple):
        return tuple(value) if isinstance(value, tuple | list) else (value,)
    return value


def _parts(text: str) -> list[str]:
    """Split at commas outside parentheses; an empty text has no parts."""
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a backslash: it stands for itself
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    return text if value in (math.inf, -math.inf) else value  # overflow: keep the text, which is then refused


def _is(value: Any, kind: type) -> bool:
    """Whether a value is a finite number of this kind; booleans are not."""
    if isinstance(value, bool) or not isinstance(value, kind):
        return False
    try:
        return math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # an integer too large for a float
        return False
