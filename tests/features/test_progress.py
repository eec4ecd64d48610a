"""What long work says of itself."""

from __future__ import annotations

import pytest

from features import progress as progress_module
from features.progress import Occasionally, progress


def test_the_first_text_is_said_and_then_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = {"one": 100.0, "two": 101.9, "three": 102.0, "four": 103.0, "five": 104.5}
    epochs = Occasionally(seconds=2)
    for text, now in clock.items():
        monkeypatch.setattr(progress_module.time, "monotonic", lambda now=now: now)
        epochs.say(text)
    assert capsys.readouterr().err.split() == ["one", "three", "five"]


def test_in_a_log_each_count_has_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress_module, "LOG_SECONDS", 0)
    with progress(3, "embed", "img") as bar:
        bar.update(2)
        bar.refresh()
        bar.set_postfix_str("shard 2 of 2")
        bar.update(1)
    counts = [line.partition(" img")[0] for line in capsys.readouterr().err.splitlines()]
    assert counts == ["embed: 0/3", "embed: 2/3", "embed: 3/3"]
