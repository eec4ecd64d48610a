"""Numbers in sentences."""

from __future__ import annotations

import pytest

from features.words import counted, listed


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (0, ("run",), "0 runs"),
        (1, ("run",), "1 run"),
        (1000, ("image",), "1,000 images"),
        (1, ("class", "classes"), "1 class"),
        (2, ("class", "classes"), "2 classes"),
    ],
)
def test_a_noun_agrees_with_its_number(count: int, noun: tuple[str, ...], text: str) -> None:
    assert counted(count, *noun) == text


def test_of_many_names_the_rest_is_counted() -> None:
    assert listed(["a", "b", "c", "d"]) == "a, b, c, d"
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c, d and 1 more"
    assert listed(["a", "b"], most=1) == "a and 1 more"
    assert listed([]) == ""
