"""What long work says of itself."""

from __future__ import annotations

import pytest

from features import progress
from features.progress import Occasionally


def test_the_first_text_is_said_and_then_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = {"one": 100.0, "two": 101.9, "three": 102.0, "four": 103.0, "five": 104.5}
    epochs = Occasionally(seconds=2)
    for text, now in clock.items():
        monkeypatch.setattr(progress.time, "monotonic", lambda now=now: now)
        epochs.say(text)
    assert capsys.readouterr().err.split() == ["one", "three", "five"]
