"""The command line, whole: from pictures to a report, and every wrong turn in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.__main__ import STAGES, main, parser

Make = Callable[..., Path]
ROOT = Path(__file__).parents[1]


class Project:
    """One folder of images, one set of weights, one OUT; commands run in this process."""

    def __init__(self, images: Path, weights: str, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.images, self.weights, self.out, self._capsys = images, weights, out, capsys
        self.common = [
            "--dataset",
            str(images),
            "--out",
            str(out),
            "--layers",
            "block4,block5",
            "--precision",
            "float32",
        ]

    def __call__(self, stage: str, *more: str, weights: bool = True) -> tuple[int, str, str]:
        given = ["--weights", self.weights] if weights and stage != "report" else []
        common = ["--out", str(self.out)] if stage == "report" else self.common
        code = main([stage, *common, *given, *more])
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    @property
    def cache(self) -> Path:
        (path,) = (self.out / "embeddings").glob("*.h5")
        return path


@pytest.fixture
def project(
    make_folder: Make, weights_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Project:
    images = make_folder({"train": 20, "test": 6}, classes=("cat", "dog"))
    return Project(images, weights_path, tmp_path / "out", capsys)


def test_the_main_job(project: Project) -> None:
    code, out, _ = project("features")
    assert code == 0
    assert Path(out.strip()) == project.cache
    for head in ("logistic", "dense", "baseline"):
        code, out, err = project("train", "--head", head)
        assert code == 0, err
        assert (Path(out.strip()) / "run.json").exists()
    code, out, _ = project("report")
    assert code == 0
    assert Path(out.strip()) == project.out / "report" / "index.html"
    (group,) = json.loads((project.out / "report" / "report.json").read_text())["groups"]
    assert {entry["head"] for entry in group["entries"]} == {"logistic", "dense", "baseline"}
    best = group["entries"][0]
    assert best["accuracy"]["value"] > 0.8, "the colours tell the classes apart"
    assert best["weights"].startswith("custom:")
    assert (
        f"Custom weights:</strong> some embeddings come from {best['weights']}"
        in (project.out / "report" / "index.html").read_text()
    )

    code, out, err = project("verify")
    assert code == 0, out + err
    assert "embedded again" in out
    assert "FAILED" not in out


def test_a_second_pass_is_a_hit(project: Project) -> None:
    project("features")
    before = project.cache.read_bytes()
    code, _, err = project("features")
    assert code == 0
    assert "cached and verified" in err
    assert "embed:" not in err
    assert project.cache.read_bytes() == before
    code, _, err = project("features", "--layers", "block5")
    assert "cached and verified" in err, "a subset of the layers is a hit"


def test_a_hit_and_a_linear_head_and_a_report_load_no_tensorflow(project: Project) -> None:
    project("features")
    for stage in (["features"], ["train", "--head", "logistic"], ["report"]):
        given = (
            [*project.common, "--weights", project.weights]
            if stage != ["report"]
            else ["--out", str(project.out)]
        )
        code = (
            "import sys; from pipeline.__main__ import main\n"
            f"code = main({[*stage, *given]!r})\n"
            "sys.exit(code or (9 if {'tensorflow', 'keras'} & set(sys.modules) else 0))"
        )
        run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert run.returncode == 0, (stage, run.stderr)


def test_a_limit_never_poses_as_the_whole(project: Project) -> None:
    project("features", "--limit", "12")
    with h5py.File(project.cache) as file:
        assert json.loads(file.attrs["dataset"])["limit"] == 12
        assert len(file["train/labels"]) == 12
    code, _, err = project("train")
    assert code == 2
    assert "cached: limit=12, asked: null" in err
    code, _, _ = project("train", "--limit", "12", "--head", "logistic")
    assert code == 0
    project("report")
    assert "A small run:" in (project.out / "report" / "index.html").read_text()


def test_a_report_keeps_to_what_was_said(project: Project) -> None:
    project("features")
    project("train", "--head", "logistic")
    project("train", "--head", "logistic", "--layers", "block5")
    for filters, count in (([], 2), (["--layers", "block5"], 1), (["--dataset", str(project.images)], 2)):
        assert project("report", *filters)[0] == 0
        document = json.loads((project.out / "report" / "report.json").read_text())
        assert sum(len(group["entries"]) for group in document["groups"]) == count
    code, _, err = project("report", "--head", "dense")
    assert code == 2
    assert "none of the 2 runs" in err


class TestFaults:
    def test_a_killed_pass_goes_on_where_it_was(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """SIGKILL between shards, then again: equal to an uninterrupted pass, nothing done twice."""
        whole = project.out.with_name("whole")
        code = (
            "import sys; from features import store; store.SHARD = 10\n"
            "put = store.EmbeddingStore.put\n"
            "def slow(self, shard, vectors):\n"
            "    put(self, shard, vectors); print(shard.name, flush=True)\n"
            "    import time; time.sleep(float(sys.argv[1]))\n"
            "store.EmbeddingStore.put = slow\n"
            "from pipeline.__main__ import main; sys.exit(main(sys.argv[2:]))"
        )
        given = [*project.common, "--weights", project.weights]

        def start(pause: str, *more: str) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", code, pause, "features", *given, *more]
            return subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )

        child = start("60")
        assert child.stdout is not None
        first = child.stdout.readline().strip()
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        assert first == "train-000000000.h5"
        assert not list((project.out / "embeddings").glob("*.h5"))

        out, err = start("0").communicate()
        assert first not in out, "a finished shard is not done twice"
        assert out.count("train-") == 3, err
        start("0", "--out", str(whole)).communicate()
        (other,) = (whole / "embeddings").glob("*.h5")
        with h5py.File(project.cache) as one, h5py.File(other) as two:
            for split in ("train", "test"):
                assert set(one[split]) == set(two[split])
                for name in one[split]:
                    assert np.array_equal(one[split][name][:], two[split][name][:])
        assert [path.suffix for path in (project.out / "embeddings").iterdir()] == [".h5"]

    def test_a_damaged_cache_is_set_aside_and_computed_again(self, project: Project) -> None:
        project("features")
        content = bytearray(project.cache.read_bytes())
        with h5py.File(project.cache) as file:
            at = file["train/block4"].id.get_chunk_info(0).byte_offset + 100
        content[at] ^= 8
        project.cache.write_bytes(content)
        code, _, err = project("train", "--head", "logistic")
        assert code == 2
        assert "is damaged" in err
        assert "run: make features" in err
        code, out, _ = project("verify")
        assert code == 1
        assert "FAILED digest of train/block4" in out
        code, _, err = project("features")
        assert code == 0
        assert "train/block4" in err
        assert "is set aside as" in err
        assert project("verify")[0] == 0

    def test_ctrl_c_tells_how_to_go_on(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        from features import extraction

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(extraction, "extract", interrupt)
        code, _, err = project("features")
        assert code == 130
        assert "interrupted; finished work is kept. To go on: make features DATASET=" in err

    def test_changed_images_are_found_by_verify(self, project: Project) -> None:
        project("features")
        image = project.images / "train" / "cat" / "001.jpg"
        image.write_bytes((project.images / "train" / "dog" / "001.jpg").read_bytes())
        code, out, _ = project("verify")
        assert code == 1
        assert "FAILED digest of the images" in out


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["features", "--dataset", "mnist"], "unknown dataset 'mnist'"),
            (["features", "--layers", "block9"], "unknown layer 'block9'"),
            (["features", "--layers", "block5@3"], "expected @1 at most"),
            (["features", "--image-size", "16"], "IMAGE_SIZE=16: expected at least 32"),
            (["features", "--preprocess", "none"], "PREPROCESS=none"),
            (["features", "--weights", "nowhere.h5"], "WEIGHTS=nowhere.h5: no such file"),
            (["features", "--archive", "nowhere.tar.gz", "--limit", "50"], "no such file"),
            (["train", "--head", "nope"], "unknown head 'nope': expected one of logistic, dense, baseline"),
            (["train"], "no embeddings fit under"),
            (["verify"], "no embeddings fit under"),
            (["report"], "no run under"),
        ],
    )
    def test_one_line_says_what_to_do(
        self,
        arguments: list[str],
        message: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        weights_path: str,
    ) -> None:
        if "--archive" in arguments:
            arguments = [*arguments, "--weights", weights_path]
        assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
        assert message in lines[0]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nope"], "invalid choice: 'nope'"),
            (["features", "--hed", "x"], "unrecognized arguments: --hed"),
            (["features", "--limit", "many"], "invalid int value: 'many'"),
            ([], "required: stage"),
        ],
    )
    def test_a_wrong_command_line_is_one_line_too(
        self, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert message in line

    def test_train_says_which_features_are_missing(self, project: Project) -> None:
        code, _, err = project("train", "--image-size", "64")
        assert code == 2
        command = err.strip().rpartition("run: ")[2]
        assert command.startswith("make features DATASET=")
        assert "IMAGE_SIZE=64" in command
        assert "HEAD" not in command

    def test_several_caches_that_fit_are_listed(self, project: Project) -> None:
        project("features")
        project("features", "--layers", "block3,block4")
        code, _, err = project("train", "--layers", "block4")
        assert code == 2
        assert err.count(".h5") == 2
        assert "several caches fit" in err
        assert project("train", "--layers", "block3,block4", "--head", "logistic")[0] == 0

    def test_an_unreadable_image_is_named_and_nothing_is_left_half_done(self, project: Project) -> None:
        (project.images / "test" / "dog" / "003.png").write_bytes(b"no picture")
        code, _, err = project("features")
        assert code == 2
        assert "test/dog/003.png" in err.strip().splitlines()[-1]
        assert not list((project.out / "embeddings").glob("*.h5"))


class TestHelp:
    def test_help_loads_nothing_heavy(self) -> None:
        heavy = ["tensorflow", "keras", "sklearn", "scipy", "matplotlib", "h5py", "numpy"]
        code = (
            "import sys; from pipeline.__main__ import main\n"
            "try: main(['--help'])\n"
            "except SystemExit: pass\n"
            f"sys.exit(' '.join(set({heavy}) & set(sys.modules)) or 0)"
        )
        run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        for stage in STAGES:
            assert stage in run.stdout

    @pytest.mark.parametrize("stage", STAGES)
    def test_every_option_tells_its_default_and_an_example(self, stage: str) -> None:
        text = parser([stage])._subparsers._group_actions[0].choices[stage].format_help()  # type: ignore[union-attr, index]
        assert f"example: python -m pipeline {stage}" in " ".join(text.split())
        assert text.count("default:") == 12


def test_imports_run_one_way() -> None:
    order = ["features", "models", "reports", "pipeline"]
    for place, package in enumerate(order):
        for path in (ROOT / package).glob("*.py"):
            for line in path.read_text().splitlines():
                words = line.split()
                if words[:1] in (["from"], ["import"]):
                    imported = words[1].partition(".")[0]
                    assert imported not in order[place + 1 :], f"{path.name}: {line.strip()}"


def test_importing_any_module_loads_no_tensorflow() -> None:
    modules = [
        f"{package}.{path.stem}"
        for package in ("features", "models", "reports", "pipeline")
        for path in (ROOT / package).glob("*.py")
        if path.stem not in ("__init__", "__main__")
    ]
    code = (
        f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\n"
        "sys.exit(' '.join({'tensorflow', 'keras'} & set(sys.modules)) or 0)"
    )
    started = time.monotonic()
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == run.stderr == "", f"importing prints nothing ({time.monotonic() - started:.1f} s)"
