"""A fault never yields a wrong result: only one that is resumed, or refused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from models.runs.collection import load_all
from tests.stand_in import Prepared

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


class Stage:
    """``features`` with the stand-in network, in processes of its own."""

    def __init__(self, images: Path, weights: str, root: Path, prepared: Prepared | None = None) -> None:
        self.images, self.root, self._prepared = images, root, prepared
        self._given = ["--dataset", str(images), "--weights", weights, "--layers", "block3,block5"]
        self._given += ["--precision", "float32", "--head", "centroid"]

    def start(
        self,
        plan: str = "-",
        out: str = "out",
        stage: str = "features",
        before: tuple[str, ...] = (),
        more: tuple[str, ...] = (),
    ) -> subprocess.Popen[str]:
        """In a new interpreter, which can be given signals, or be started by another command."""
        return subprocess.Popen(
            [*before, sys.executable, "-m", "tests.stand_in", plan, *self._arguments(stage, out, more)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        plan: str = "-",
        out: str = "out",
        stage: str = "features",
        before: tuple[str, ...] = (),
        more: tuple[str, ...] = (),
    ) -> tuple[int, list[str], str]:
        """Exit code, shards written, standard error."""
        if before or self._prepared is None:
            child = self.start(plan, out, stage, before, more)
            printed, err = child.communicate(timeout=60)
            code = child.returncode
        else:
            code, printed, err = self._prepared(plan, self._arguments(stage, out, more))
        return code, [line for line in printed.splitlines() if line.startswith(("train-", "test-"))], err

    def _arguments(self, stage: str, out: str, more: tuple[str, ...]) -> list[str]:
        return [stage, *self._given, *more, "--out", str(self.root / out)]

    def runs(self) -> dict[str, Any]:
        """Test probabilities of every run, after checking that nothing else lies beside the runs."""
        root = self.root / "out" / "runs"
        found = {run.folder: run.test_proba for run in load_all(root)}
        assert {path.name for path in root.iterdir()} <= {"looks.jsonl", "lock", *found}
        return found

    def content(self, out: str = "out") -> dict[str, Any]:
        """Every array of the finished file, after checking that it stands alone."""
        (path,) = (self.root / out / "embeddings").iterdir()
        return content(path)


def content(path: Path) -> dict[str, Any]:
    """Every array of a finished cache, in whatever number of files."""
    parts = sorted(path.glob("*.h5"), key=lambda part: (part.name.startswith("test"), part.name)) or [path]
    found: dict[str, list[Any]] = {}
    for part in parts:
        with h5py.File(part) as file:
            for split in file:
                for name in file[split]:
                    found.setdefault(f"{split}/{name}", []).append(file[split][name][:])
    return {name: np.concatenate(arrays) for name, arrays in found.items()}


def assert_equal(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert set(one) == set(two)
    for name, array in one.items():
        assert np.array_equal(array, two[name]), name


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    with Prepared(tmp_path_factory.mktemp("prepared")) as prepared:
        yield prepared


@pytest.fixture
def stage(make_folder: Callable[..., Path], weights_path: str, tmp_path: Path, prepared: Prepared) -> Stage:
    images = make_folder({"train": 20, "test": 6}, classes=("cat", "dog"))
    return Stage(images, weights_path, tmp_path, prepared)


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


TWO_PARTS = ("--max-file", "130000")  # of 40 + 12 rows of 3,072 bytes, in three shards


def test_killed_at_every_durable_step_of_a_part_it_resumes_to_the_same_rows(stage: Stage) -> None:
    assert stage.run(out="whole")[0] == 0
    whole, steps = stage.content("whole"), 0
    while True:
        out = f"out{steps}"
        code, before, _ = stage.run(f"kill={steps}", out, more=TWO_PARTS)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        code, after, err = stage.run(out=out, more=TWO_PARTS)
        assert code == 0, err
        assert not set(before) & set(after), "a finished shard is done twice"
        assert_equal(stage.content(out), whole)
        (folder,) = (stage.root / out / "embeddings").iterdir()
        assert {path.name for path in folder.iterdir()} == {
            "index.json",
            "train-000000000.h5",
            "test-000000000.h5",
        }
        steps += 1
    assert steps >= 3 * len(before) + 2 * 4 + 6, "every fsync and rename was a place to die"


@pytest.mark.parametrize("write", [0, 3, 20])
def test_ctrl_c_while_hdf5_writes_a_part_is_no_crash(stage: Stage, write: int) -> None:
    code, before, err = stage.run(f"interrupt={write}", more=TWO_PARTS)
    assert code == 130, err
    code, after, err = stage.run(more=TWO_PARTS)
    assert code == 0, err
    assert not set(before) & set(after)
    stage.run(out="whole")
    assert_equal(stage.content(), stage.content("whole"))


def test_parts_fit_where_one_file_does_not(stage: Stage) -> None:
    assert stage.run("size=130000", more=("--max-file", "70000"))[0] == 0
    stage.run(out="whole")
    assert_equal(stage.content(), stage.content("whole"))


def test_a_disk_full_at_any_operation_on_a_shard_is_told_and_resumed(stage: Stage) -> None:
    stage.run(out="whole")
    whole, operations, kept = stage.content("whole"), 0, set()
    while True:
        out = f"out{operations}"
        code, before, err = stage.run(f"full={operations}", out)
        if code == 0:
            break
        assert code == 2, err
        assert err.strip().splitlines()[-1].startswith("error: cannot write")
        assert "No space left on device" in err
        assert not list((stage.root / out / "embeddings").glob("**/*.tmp"))
        kept.add(len(before))
        if operations % 5 == 0:
            code, after, err = stage.run(out=out)
            assert code == 0, err
            assert not set(before) & set(after), "a finished shard is done twice"
            assert_equal(stage.content(out), whole)
        operations += 1
    assert kept == {0, 1, 2, 3}, "it was full in each of the three shards, and after them"


def test_a_disk_full_in_the_finished_file_is_told_and_resumed(stage: Stage) -> None:
    """No shard is larger than 61 kB; the finished file is."""
    code, before, err = stage.run("size=130000")
    assert code == 2, err
    assert err.strip().splitlines()[-1].startswith("error: cannot write")
    assert "File too large" in err
    assert before
    assert not list((stage.root / "out" / "embeddings").glob("**/*.tmp"))
    code, after, err = stage.run()
    assert code == 0, err
    assert not set(before) & set(after)
    stage.run(out="whole")
    assert_equal(stage.content(), stage.content("whole"))


@pytest.mark.parametrize("write", [0, 1, 3, 10])
def test_ctrl_c_while_hdf5_writes_is_no_crash(stage: Stage, write: int) -> None:
    code, before, err = stage.run(f"interrupt={write}")
    assert code == 130, err
    assert "interrupted; finished work is kept. To resume: make features" in err
    code, after, err = stage.run()
    assert code == 0, err
    assert not set(before) & set(after)
    stage.run(out="whole")
    assert_equal(stage.content(), stage.content("whole"))


def test_ctrl_c_does_not_wait_for_images_that_are_only_being_read(stage: Stage) -> None:
    child = stage.start("slow=0.4")  # 20 images a shard: 4 s on two cores
    assert child.stdout is not None
    assert child.stdout.readline().startswith("train-")
    child.send_signal(signal.SIGINT)
    pressed = time.monotonic()
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert time.monotonic() - pressed < 12, "one slice of images, not all shards"
    code, shards, err = stage.run()
    assert code == 0, err
    assert "train-000000000.shard" not in shards


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


def test_a_file_in_the_way_is_told(stage: Stage) -> None:
    (stage.root / "out").write_text("a file in the way")
    code, _, err = stage.run()
    assert code == 2
    assert err.strip().splitlines()[-1].startswith("error: cannot write")
    assert "choose another OUT=" in err


class TestReadOnly:
    """As a user whom permissions bind: where the tests run as root, without root's power over files."""

    BOUND = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()

    def test_a_folder_that_may_not_be_written_is_told(self, stage: Stage) -> None:
        (stage.root / "out").mkdir(mode=0o555)
        code, shards, err = stage.run(before=self.BOUND)
        assert (code, shards) == (2, [])
        assert err.strip().splitlines()[-1].startswith("error: cannot write")
        assert "Permission denied; choose another OUT=" in err

    def test_a_hit_needs_no_permission_to_write(self, stage: Stage) -> None:
        assert stage.run()[0] == 0
        folder = stage.root / "out" / "embeddings"
        (path,) = folder.iterdir()
        path.with_suffix(".tmp").write_bytes(b"left by a kill")
        folder.chmod(0o555)
        code, shards, err = stage.run(before=self.BOUND)
        assert (code, shards) == (0, []), err
        assert "cached and verified" in err

    def test_runs_are_read_without_permission_to_write(self, stage: Stage) -> None:
        assert stage.run()[0] == stage.run(stage="train")[0] == 0
        runs = stage.root / "out" / "runs"
        left = runs / f".{next(runs.glob('*-centroid-*')).name}.tmp"
        left.mkdir()
        runs.chmod(0o555)
        images = ("--image", str(stage.images / "test"))
        code, _, err = stage.run(stage="predict", before=self.BOUND, more=images)
        assert code == 0, err
        code, _, err = stage.run(stage="report", before=self.BOUND)
        assert code == 0, err
        code, _, err = stage.run(stage="train", before=self.BOUND, more=("--force",))
        assert code == 2
        assert err.strip().splitlines()[-1].startswith(f"error: cannot write {runs}: Permission denied; ")
        assert left.is_dir()

    def test_a_file_that_may_not_be_read_is_not_called_damaged(self, stage: Stage) -> None:
        assert stage.run()[0] == 0
        (path,) = (stage.root / "out" / "embeddings").iterdir()
        path.chmod(0)
        code, _, err = stage.run(stage="train", before=self.BOUND)
        assert code == 2
        assert "permission denied" in err
        assert "damaged" not in err


def test_a_file_open_elsewhere_for_writing_is_not_called_damaged(stage: Stage) -> None:
    assert stage.run()[0] == 0
    (path,) = (stage.root / "out" / "embeddings").iterdir()
    with h5py.File(path, "r+"):
        code, _, err = stage.run()
    assert path.exists()
    assert "damaged" not in err
    assert code == 0 or "cannot be read now" in err


def test_an_image_that_changes_during_the_pass_is_told(stage: Stage) -> None:
    child = stage.start("slow=0.2")
    assert child.stdout is not None
    assert child.stdout.readline().startswith("train-")
    picture = stage.images / "test" / "dog" / "005.jpg"
    os.utime(picture, ns=(1, 1))
    _, err = child.communicate(timeout=60)
    assert child.returncode == 2
    assert f"{picture} has changed since its digest was taken; run this again" in err
    assert stage.run()[0] == 0


def test_a_train_killed_at_every_durable_step_leaves_no_half_run(stage: Stage) -> None:
    assert stage.run()[0] == 0
    steps = 0
    while True:
        code, _, err = stage.run(f"kill={steps}", stage="train")
        if code == 0:
            break
        assert code == -signal.SIGKILL, err
        load_all(stage.root / "out" / "runs")
        assert len(stage.runs()) <= 1
        steps += 1
        for folder in stage.runs():  # the last step comes after the run stands
            shutil.rmtree(stage.root / "out" / "runs" / folder)
    assert steps >= 4, "three files and a rename are places to die"
    (proba,) = stage.runs().values()
    shutil.rmtree(stage.root / "out" / "runs")
    assert stage.run(stage="train")[0] == 0
    assert np.array_equal(stage.runs().popitem()[1], proba)


def test_a_repeat_killed_at_every_durable_step_leaves_one_whole_run(stage: Stage) -> None:
    assert stage.run()[0] == stage.run(stage="train")[0] == 0
    ((folder, proba),) = stage.runs().items()
    steps = 0
    while True:
        code, _, err = stage.run(f"kill={steps}", stage="train", more=("--force",))
        ((found, again),) = stage.runs().items()
        assert found == folder
        assert np.array_equal(again, proba)
        if code == 0:
            break
        assert code == -signal.SIGKILL, err
        steps += 1
    assert steps >= 5, "three files and two renames are places to die"
