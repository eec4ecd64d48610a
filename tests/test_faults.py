"""A fault never yields a wrong result: only one that is resumed, or refused."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from models.runs import load_all

ROOT = Path(__file__).parents[1]


class Stage:
    """``features`` with the stand-in network, in processes of its own."""

    def __init__(self, images: Path, weights: str, root: Path) -> None:
        self.root = root
        self._given = ["--dataset", str(images), "--weights", weights, "--layers", "block3,block5"]
        self._given += ["--precision", "float32", "--head", "ridge"]

    def start(self, plan: str, out: str = "out", stage: str = "features") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.stand_in", plan, stage, *self._given]
        return subprocess.Popen(
            [*command, "--out", str(self.root / out)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, plan: str = "-", out: str = "out", stage: str = "features") -> tuple[int, list[str], str]:
        """Exit code, shards written, standard error."""
        child = self.start(plan, out, stage)
        printed, err = child.communicate(timeout=60)
        shards = [line for line in printed.splitlines() if line.startswith(("train-", "test-"))]
        return child.returncode, shards, err

    def content(self, out: str = "out") -> dict[str, Any]:
        """Every array of the finished file, after checking that it stands alone."""
        (path,) = (self.root / out / "embeddings").iterdir()
        with h5py.File(path) as file:
            return {f"{split}/{name}": file[split][name][:] for split in file for name in file[split]}


def assert_equal(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert set(one) == set(two)
    for name, array in one.items():
        assert np.array_equal(array, two[name]), name


@pytest.fixture
def stage(make_folder: Callable[..., Path], weights_path: str, tmp_path: Path) -> Stage:
    images = make_folder({"train": 20, "test": 6}, classes=("cat", "dog"))
    return Stage(images, weights_path, tmp_path)


def test_killed_at_every_durable_step_it_resumes_to_the_same_file(stage: Stage) -> None:
    code, shards, err = stage.run(out="whole")
    assert code == 0, err
    assert len(shards) == 3
    whole, steps = stage.content("whole"), 0
    while True:
        out = f"out{steps}"
        code, before, _ = stage.run(f"kill={steps}", out)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        code, after, err = stage.run(out=out)
        assert code == 0, err
        assert not set(before) & set(after), "a finished shard is done twice"
        assert_equal(stage.content(out), whole)
        steps += 1
    assert steps >= 3 * len(shards) + 3, "every fsync and rename was a place to die"


@pytest.mark.parametrize("size", [4_000, 40_000, 130_000])
def test_a_disk_full_at_any_stage_is_told_and_resumed(stage: Stage, size: int) -> None:
    """The limits stop it in its first shard, in a later one, and in the finished file."""
    code, before, err = stage.run(f"size={size}")
    assert code == 2, err
    assert err.strip().splitlines()[-1].startswith("error: cannot write")
    assert "File too large" in err
    assert not list((stage.root / "out" / "embeddings").glob("**/*.tmp"))
    code, after, err = stage.run()
    assert code == 0, err
    assert not set(before) & set(after)
    stage.run(out="whole")
    assert_equal(stage.content(), stage.content("whole"))


def test_of_two_at_once_one_works_and_one_is_told(stage: Stage) -> None:
    first = stage.start("pause=3")
    assert first.stdout is not None
    assert first.stdout.readline().startswith("train-")
    code, shards, err = stage.run()
    assert (code, shards) == (2, [])
    assert f"is being written by process {first.pid} since" in err
    code, _, err = stage.run(stage="train")
    assert code == 2
    assert "no embeddings fit yet" in err
    assert f"process {first.pid}" in err
    first.kill()
    first.communicate()
    code, _, err = stage.run()
    assert code == 0, "the lock of a dead process is free: " + err


def test_a_folder_nobody_may_write_is_told(stage: Stage) -> None:
    (stage.root / "out").write_text("a file in the way")
    code, _, err = stage.run()
    assert code == 2
    assert err.strip().splitlines()[-1].startswith("error: cannot write")
    assert "choose another OUT=" in err


def test_a_train_killed_at_every_durable_step_leaves_no_half_run(stage: Stage) -> None:
    def runs() -> dict[str, Any]:
        """Every run, and that nothing else lies beside the runs."""
        root = stage.root / "out" / "runs"
        found = {run.folder: run.test_proba for run in load_all(root)}
        assert {path.name for path in root.iterdir()} <= {"looks.jsonl", *found}
        return found

    assert stage.run()[0] == 0
    steps = 0
    while True:
        code, _, err = stage.run(f"kill={steps}", stage="train")
        if code == 0:
            break
        assert code == -signal.SIGKILL, err
        load_all(stage.root / "out" / "runs")
        assert len(runs()) <= 1
        steps += 1
        for folder in runs():  # the last step comes after the run stands
            shutil.rmtree(stage.root / "out" / "runs" / folder)
    assert steps >= 4, "three files and a rename are places to die"
    (proba,) = runs().values()
    shutil.rmtree(stage.root / "out" / "runs")
    assert stage.run(stage="train")[0] == 0
    assert np.array_equal(runs().popitem()[1], proba)
