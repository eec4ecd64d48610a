"""After a power cut at any moment the next command gives the right result or refuses, never a wrong one.

A sample of the states of ``tests/crash_states.py``; ``make crashes`` opens all of them. The next command runs
in this process, with the stand-in for the network.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from features.cache import store
from features.cache.embeddings import Damaged, Embeddings
from features.errors import UserError
from features.files import write_whole
from models import curve
from models.runs import looks
from models.runs.collection import load_all
from models.runs.run import Run
from reports import report
from reports.context.gathering import gather, state_of
from reports.page.render import current
from tests.conftest import Project
from tests.crash_states import Recorder, State

ALL = os.environ.get("HEADROOM_CRASHES") == "all"
SAMPLE = 12  # states of a command, unless all are asked for


class Crashes:
    """A project, one command of it recorded, and the states that a power cut in it may leave."""

    def __init__(self, project: Project) -> None:
        self.project, self.out, self.runs = project, project.out, project.out / "runs"

    def run(self, command: str) -> tuple[int, str]:
        """The exit code of a command, and what it said."""
        stage, *more = command.split()
        layers = () if stage == "report" else ("--layers", "block1")
        code, _, err = self.project(stage, *layers, *more, weights=True)
        return code, err

    def ready(self, *commands: str) -> None:
        """Run what comes before."""
        for command in commands:
            code, err = self.run(command)
            assert code == 0, err

    def record(self, command: str) -> None:
        """Run a command, and note all that it does."""
        self._command, self._recorder = command, Recorder(self.out)
        with pytest.MonkeyPatch.context() as monkeypatch:
            self._recorder.install(monkeypatch)
            self.ready(command)
        self._recorder.check()

    def states(self) -> Iterator[State]:
        """Lay out each state that the recorded command may leave."""
        opened = self.refused = 0
        for state in self._recorder.states(None if ALL else SAMPLE):
            state.lay_out(self.out)
            yield state
            opened += 1
        operations = len(self._recorder.log)
        print(f"{self._command}: {operations} operations, {opened} states, {self.refused} refused")

    def again(self, state: State) -> bool:
        """Whether the same command does its work now; else it refuses in a line, what is whole never."""
        code, err = self.run(self._command)
        if code == 0:
            return True
        assert code == 2, f"{state.about}: {err}"
        assert err.splitlines()[-1].startswith("error: "), f"{state.about}: {err}"
        assert not state.whole, f"{state.about}: {err}"
        self.refused += 1
        return False


@pytest.fixture
def crashes(project: Project, monkeypatch: pytest.MonkeyPatch) -> Crashes:
    monkeypatch.setattr(store, "SHARDS", (20,))
    return Crashes(project)


def content(path: Path) -> dict[str, Any]:
    """Every array of an embeddings file, proved by its digest."""
    held = Embeddings(path)
    arrays: dict[str, Any] = {"train/labels": held.labels(), "test/labels": held.test_labels()}
    for split in held.rows:
        arrays |= {f"{split}/ids": held.ids(split), f"{split}/block1": held.matrix(split, ["block1"])}
    return arrays


def assert_equal(found: dict[str, Any], expected: dict[str, Any], state: State) -> None:
    assert set(found) == set(expected), state.about
    for name, array in found.items():
        assert np.array_equal(array, expected[name]), f"{state.about}: {name}"


def predictions(runs: list[Run]) -> dict[str, Any]:
    return {
        f"{run.folder}/{name}": getattr(run, name) for run in runs for name in ("val_proba", "test_proba")
    }


def test_features(crashes: Crashes) -> None:
    crashes.record("features")
    whole = content(crashes.project.cache)
    for state in crashes.states():
        found = list((crashes.out / "embeddings").glob("*.h5"))
        assert found or not state.last, f"{state.about}: the command had ended, and its cache is gone"
        for path in found:  # as `train` finds it
            try:
                assert_equal(content(path), whole, state)
            except Damaged:
                assert not state.whole, state.about
        if crashes.again(state):
            assert_equal(content(crashes.project.cache), whole, state)
            left = {path.name for path in crashes.project.cache.parent.iterdir()}
            assert {name for name in left if ".damaged-" not in name} == {crashes.project.cache.name}, (
                state.about
            )


@pytest.mark.parametrize(
    ("before", "command"),
    [
        ([], "train --head ridge"),
        (["train --head centroid", "train --head ridge"], "train --head ridge --force"),
        (["train --head centroid", "train --head ridge"], "train --head vote"),
        (
            ["train --head centroid", "train --head ridge", "train --head vote", "train --head lda"],
            "train --head vote",
        ),
    ],
    ids=["the first run", "a run again", "a vote", "a vote of other members"],
)
def test_train(crashes: Crashes, before: list[str], command: str) -> None:
    crashes.ready("features", *before)
    earlier, noted = load_all(crashes.runs), looks.read(crashes.runs).counts.total()
    crashes.record(command)
    later = load_all(crashes.runs)
    known = [predictions(earlier), predictions(later)]
    for state in crashes.states():
        found = load_all(crashes.runs)
        for name, proba in predictions(found).items():
            assert any(np.array_equal(proba, runs[name]) for runs in known if name in runs), (
                f"{state.about}: {name}"
            )
        standing = {run.folder for run in earlier} & {run.folder for run in later}
        assert standing <= {run.folder for run in found}, f"{state.about}: a run that was there is gone"
        if state.last:
            assert_equal(predictions(found), known[1], state)  # the command had ended
        look = looks.read(crashes.runs)
        if not look.doubt([run.look for run in found], {}):
            assert look.counts.total() >= max(noted, len(found)), f"{state.about}: a look is not counted"
        else:
            assert not state.whole, state.about
        if crashes.again(state):
            assert_equal(predictions(load_all(crashes.runs)), known[1], state)
            left = {path.name for path in crashes.runs.iterdir()} - {"lock"}
            assert left == {"looks.jsonl", *(run.folder for run in later)}, state.about


def test_curve(crashes: Crashes) -> None:
    crashes.ready("features", "train --head ridge")
    (run,) = load_all(crashes.runs)
    crashes.record("curve --head ridge")
    whole = curve.load(crashes.runs, run)
    assert whole is not None
    for state in crashes.states():
        try:
            found = curve.load(crashes.runs, run)
        except UserError:
            assert not state.whole, state.about
        else:
            points = found.points if found else []
            assert points == whole.points or not state.last, f"{state.about}: the command had ended"
            for point, expected in zip(points, whole.points, strict=False):
                drawn = len(point["accuracy"])
                assert point == {**expected, "accuracy": expected["accuracy"][:drawn]}, state.about
        if crashes.again(state):
            found = curve.load(crashes.runs, run)
            assert found is not None
            assert found.points == whole.points, state.about


def test_report(crashes: Crashes, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(strftime=lambda form: "now")
    monkeypatch.setattr(report, "time", clock)  # a page says when it was made
    crashes.ready("features", "train --head ridge", "report", "train --head centroid")
    runs = load_all(crashes.runs)
    crashes.record("report")

    def page() -> dict[str, bytes]:
        folder = crashes.out / "report"
        return {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }

    def is_current() -> bool:
        asked = state_of(runs, gather(runs, crashes.runs, crashes.out / "embeddings"), "csv")
        return current(crashes.out / "report", asked) is not None

    whole = page()
    for state in crashes.states():
        if is_current():
            assert page() == whole, state.about
        else:
            assert not (state.last and state.whole), state.about
        if ALL and state.whole and state.length % 10 == 0:  # a report takes seconds
            assert crashes.again(state)
            assert page() == whole, state.about


def test_what_is_written_without_care_is_found_out(tmp_path: Path) -> None:
    """Each way of replacing a file that leaves it neither old nor new in some state."""

    def in_place(path: Path) -> None:
        path.write_bytes(b"new one")

    def not_synced(path: Path) -> None:
        path.with_suffix(".tmp").write_bytes(b"new one")
        path.with_suffix(".tmp").replace(path)

    def left(write: Callable[[Path], None], name: str) -> set[bytes | None]:
        path = tmp_path / name / "file"
        path.parent.mkdir()
        path.write_bytes(b"old")
        recorder = Recorder(path.parent)
        with pytest.MonkeyPatch.context() as monkeypatch:
            recorder.install(monkeypatch)
            write(path)
        recorder.check()
        assert path.read_bytes() == b"new one"
        return {state.tree.get("file") for state in recorder.states()}

    assert left(in_place, "one") == {b"old", b"", b"new", b"new one"}
    assert left(not_synced, "two") == {b"old", b"", b"new", b"new one"}
    assert left(lambda path: write_whole(path, b"new one"), "three") == {b"old", b"new one"}
