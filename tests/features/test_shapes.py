"""JSON from a file is used only where it is what it should be; the first place where it is not is named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from features import shapes
from features.shapes import count, either, flag, having, mapping, misfit, none_or, number, parsed, read, some

SHAPE: dict[str, Any] = {"name": shapes.text, "rows": [{"value": number(0, 1)}], "size": none_or(count(1))}
FITS: dict[str, Any] = {"name": "a", "rows": [{"value": 0.5}, {"value": 1}], "size": None}


def test_what_fits_has_no_misfit() -> None:
    assert misfit(FITS, SHAPE) is None


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"name": 1}, "name"),
        ({"more": 1}, "more"),
        ({"rows": {}}, "rows"),
        ({"rows": [{"value": 0.5}, {"value": float("nan")}]}, "rows[1].value"),
        ({"rows": [{"value": 0.5}, {}]}, "rows[1].value"),
        ({"rows": [None]}, "rows[0]"),
        ({"rows": [{"value": True}]}, "rows[0].value"),
        ({"size": 0}, "size"),
        ({"size": 1.0}, "size"),
    ],
)
def test_the_first_misfit_is_named(change: dict[str, Any], place: str) -> None:
    assert misfit(FITS | change, SHAPE) == place


@pytest.mark.parametrize("value", [None, [], 7, "text"])
def test_what_is_something_else_is_so_as_a_whole(value: Any) -> None:
    assert misfit(value, SHAPE) == "the whole"


@pytest.mark.parametrize(
    ("shape", "good", "bad"),
    [
        (some(flag), [True], []),
        (mapping(flag), {"a": True}, {"a": 1}),
        (having({"a": flag}), {"a": True, "b": 1}, {"b": 1}),
        (either(flag, count(0)), 1, 1.5),
        (count(1), 2**63 - 1, 2**63),
        (shapes.sha256, "0" * 64, "g" * 64),
    ],
)
def test_each_kind_takes_one_and_refuses_the_other(shape: shapes.Shape, good: Any, bad: Any) -> None:
    assert misfit(good, shape) is None
    assert misfit(bad, shape) == "the whole"


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[" * 200 + b"]" * 200, b"\xff", b"", b"{"])
def test_what_is_no_json_or_nested_without_end_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parsed(content)


def test_a_file_without_end_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("[1]")
    assert read(path) == [1]
    monkeypatch.setattr(shapes, "LARGEST", 2)
    for size in (3, 1 << 40):
        os.truncate(path, size)
        with pytest.raises(ValueError, match="larger than 2 bytes"):
            read(path)
