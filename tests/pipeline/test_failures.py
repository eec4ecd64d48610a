"""A defect keeps its traceback, whatever went on without it; what a user can put right is a line."""

from __future__ import annotations

import ast
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from features.errors import UserError
from models import curve
from models.heads import moments, registry
from models.heads.refusal import Refused
from models.heads.registry import HEADS
from models.runs.collection import load_all
from pipeline.__main__ import STAGES, main
from pipeline.failures import COMMANDS, NAMES, in_users_words, reason, trace
from pipeline.options import Options
from tests.conftest import Project

pytestmark = pytest.mark.slow

QUICK = ("prior", "centroid", "ridge", "lda")
FAILED = r"^failed: (.*): ValueError: a covariance of no shape; traceback: (.*)$"


@pytest.fixture
def trained(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(registry, "HEADS", {name: HEADS[name] for name in QUICK})
    project("features")
    return project


@pytest.fixture
def defect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two heads of four end in an exception that nobody foresaw."""

    def covariance(*_: object) -> None:
        raise ValueError("a covariance of no shape\nand more")

    monkeypatch.setattr(moments._MomentsHead, "_moments", covariance)


def raised(error: Exception) -> Exception:
    """The error, as it is when it has been caught."""
    try:
        raise error
    except Exception as caught:
        return caught


@pytest.mark.usefixtures("defect")
class TestOneOfSeveral:
    def test_heads(self, trained: Project) -> None:
        code, out, err = trained("train", "--head", "all")
        assert code == 1
        assert len(out.splitlines()) == 2, "the others are trained"
        found = dict(re.findall(FAILED, err, re.M))
        assert set(found) == {"ridge with seed 0", "lda with seed 0"}
        assert {str(path) for path in (trained.out / "logs").iterdir()} == set(found.values())
        for job, path in found.items():
            kept = Path(path).read_text()
            assert kept.startswith(f"{job}\n")
            assert "in covariance\n" in kept
            assert kept.endswith("ValueError: a covariance of no shape\nand more\n")
        assert "Traceback" not in err

    def test_debug_prints_it_as_well(self, trained: Project) -> None:
        _, _, err = trained("train", "--head", "all", "--debug")
        assert err.count("in covariance\n") == 2
        assert len(re.findall(FAILED, err, re.M)) == 2

    def test_seeds(self, trained: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        drawing = registry.Head(HEADS["ridge"].make, "drawing", HEADS["ridge"].grid, random=True)
        monkeypatch.setattr(registry, "HEADS", {"ridge": drawing})
        code, _, err = trained("train", "--head", "ridge", "--seeds", "2")
        assert code == 1
        assert [job for job, _ in re.findall(FAILED, err, re.M)] == ["ridge with seed 0", "ridge with seed 1"]


class TestCurves:
    @pytest.fixture
    def runs(self, trained: Project) -> Project:
        trained("train", "--head", "all")
        return trained

    def fail(self, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        grow = curve.grow

        def failing(material: Any, run: Any, root: Path) -> Any:
            if run.head == "ridge":
                raise error
            return grow(material, run, root)

        monkeypatch.setattr(curve, "grow", failing)

    def test_one_of_several(self, runs: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fail(monkeypatch, ValueError("a covariance of no shape"))
        code, out, err = runs("curve", "--head", "all")
        assert code == 1
        assert len(out.splitlines()) == 3
        ((job, path),) = re.findall(FAILED, err, re.M)
        assert job == "ridge"
        assert "in failing\n" in Path(path).read_text()

    def test_the_only_one(self, runs: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fail(monkeypatch, ValueError("a covariance of no shape"))
        with pytest.raises(ValueError, match="no shape"):
            runs("curve", "--head", "ridge")
        self.fail(monkeypatch, UserError("no room; make some"))
        code, _, err = runs("curve", "--head", "ridge")
        assert code == 2
        assert err.splitlines()[-1] == "error: no room; make some"

    def test_what_a_head_refuses_is_no_defect(self, runs: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        def diverged(*_: object) -> None:
            raise Refused("training diverged")

        monkeypatch.setattr(moments.RidgeHead, "_solve", diverged)
        code, _, err = runs("curve", "--head", "all")
        assert code == 1
        assert "failed: ridge: the head refuses these embeddings: training diverged\n" in err
        assert not (runs.out / "logs").exists()


@pytest.mark.usefixtures("defect")
def test_a_single_job_shows_its_traceback(trained: Project) -> None:
    with pytest.raises(ValueError, match="a covariance of no shape"):
        trained("train", "--head", "ridge")


def test_no_file_is_written_over_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.strftime", lambda _: "20260101-000000")
    options, paths = Options(out=str(tmp_path)), []
    for number in range(3):
        line = reason(raised(KeyError(f"number {number}")), options, "../lda with seed 0")
        paths.append(Path(line.partition("; traceback: ")[2]))
    assert [path.name[16:] for path in paths] == [f"_lda_with_seed_0{end}.log" for end in ("", "-2", "-3")]
    for number, path in enumerate(paths):
        assert path.parent == tmp_path / "logs"
        assert f"KeyError: 'number {number}'" in path.read_text()


def test_a_folder_that_cannot_be_written_costs_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").write_text("a file in the way")
    line = reason(raised(KeyError("x")), Options(out=str(tmp_path)), "lda")
    assert line == "KeyError: 'x'; traceback: above"
    assert "Traceback (most recent call last)" in capsys.readouterr().err


class TestDebug:
    def test_the_causes_of_a_line_are_shown(self, trained: Project) -> None:
        given = ("train", "--head", "ridge", "--set", "alpha=x")
        code, _, line = trained(*given)
        assert code == 2
        assert len(line.splitlines()) == 1
        code, _, err = trained(*given, "--debug", "1")
        assert code == 2
        assert err.endswith(line)
        assert "models.heads.refusal.Refused: alpha=x: expected a number above 0" in err, (
            "though hidden: from None"
        )

    def test_it_is_no_part_of_a_command(self, trained: Project) -> None:
        code, _, err = trained("train", "--head", "ridge", "--debug")
        assert code == 0, err
        (run,) = load_all(trained.out / "runs")
        assert "DEBUG" not in run.command
        assert Options(debug=1, said=("debug", "head")).command("train") == "make train HEAD=dense"

    def test_zero_is_no(self, trained: Project) -> None:
        _, _, err = trained("train", "--head", "nope", "--debug", "0")
        assert len(err.splitlines()) == 1

    def test_every_cause_is_in_a_trace(self) -> None:
        try:
            try:
                try:
                    raise KeyError("first")
                except KeyError as error:
                    raise ValueError("second") from error
            except ValueError:
                raise UserError("third") from None
        except UserError as error:
            assert re.findall(r"first|second|third", re.sub(r" *raise .*", "", trace(error)))[-1] == "third"
            assert all(text in trace(error) for text in ("KeyError: 'first'", "ValueError: second"))


class TestUsersWords:
    """The libraries name parameters as Python does; the command line names its variables."""

    @pytest.mark.parametrize(
        ("raised", "shown"),
        [
            ("image_size=16: expected 32", "IMAGE_SIZE=16: expected 32"),
            (
                "no room; choose another folder, or give fewer layers=",
                "no room; choose another OUT=, or give fewer LAYERS=",
            ),
            ("several (limit=5, seed=3)", "several (LIMIT=5, SEED=3)"),
            ("settings=alpha: no value", "SET=alpha: no value"),
            ("settings: alpha=x: expected a number", "SET: alpha=x: expected a number"),
            ("/data/set=train/limit=5/x.png is gone", "/data/set=train/limit=5/x.png is gone"),
            ("settings=seed=1,batch=2: no", "SET=seed=1,batch=2: no"),
            ("batch_size=0: expected 1", "batch_size=0: expected 1"),
            ("settings=a\nb: no", "SET=a b: no"),
            ("x.h5 is damaged; compute it again", "x.h5 is damaged; run: make features"),
        ],
    )
    def test_variables_for_parameters(self, raised: str, shown: str) -> None:
        assert in_users_words(UserError(raised)) == shown

    def test_every_advice_is_given_somewhere(self) -> None:
        sources = "".join(path.read_text() for path in library())
        assert [advice for advice in COMMANDS if advice not in sources] == []

    def test_no_library_speaks_of_variables_and_commands(self) -> None:
        """Docstrings aside: what they quote of the command line is no message."""
        own = re.compile(rf"\b(?:{'|'.join(map(str.upper, NAMES))})=|\bmake (?:{'|'.join(STAGES)})\b")
        found = []
        for path in library():
            tree = ast.parse(path.read_text())
            quoted = {
                id(node.body[0].value)
                for node in ast.walk(tree)
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
                and isinstance(node.body[0], ast.Expr)
            }
            for node in ast.walk(tree):
                text = node.value if isinstance(node, ast.Constant) and id(node) not in quoted else ""
                if isinstance(text, str) and own.search(text):
                    found.append(f"{path.name}:{node.lineno}: {text}")
        assert found == []


def library() -> list[Path]:
    root = Path(__file__).parents[2]
    return [path for name in ("features", "models", "reports") for path in (root / name).rglob("*.py")]


@pytest.fixture
def sigint() -> Iterator[None]:
    """As a terminal has it: a shell ignores it for what runs behind it."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


class ResourceExhaustedError(Exception):
    """Named as TensorFlow's."""


MEMORY = [
    (MemoryError(), "the memory ran out; "),
    (MemoryError("Unable to allocate 745. GiB"), "the memory ran out (Unable to allocate 745. GiB); "),
    (ResourceExhaustedError("OOM when allocating\nmore"), "the memory ran out (OOM when allocating); "),
]


class TestWhatIsNoDefect:
    """Without a traceback: a disk that is full, Ctrl-C in native code, and memory that runs out."""

    def fail(self, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
        def failing(*_: object) -> None:
            raise error

        monkeypatch.setattr("pipeline.stages.report", failing)
        monkeypatch.setattr(moments._MomentsHead, "_moments", failing)

    @pytest.mark.parametrize("stage", ["--help", "features", "train", "report"])
    def test_a_full_disk_behind_standard_output(self, trained: Project, stage: str) -> None:
        trained("train", "--head", "ridge")
        if stage == "report":
            trained(stage)  # so that there is nothing to draw
        command = [sys.executable, "-m", "pipeline", stage, "--out", str(trained.out)]
        command += [] if stage in ("report", "--help") else [*trained.common, "--weights", trained.weights]
        command += ["--head", "ridge"] if stage == "train" else []
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1] == (
            "error: cannot write standard output: No space left on device; make room, or send it elsewhere"
        )
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr

    def test_ctrl_c_that_native_code_returns_as_its_own_error(
        self, trained: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        error = SystemError("<built-in method IsNested> returned a result with an exception set")
        error.__cause__ = KeyboardInterrupt()
        self.fail(monkeypatch, error)
        for given in (("report",), ("train", "--head", "ridge"), ("train", "--head", "all")):
            code, _, err = trained(*given)
            assert code == 130
            assert "interrupted; finished work is kept. To resume: make" in err
            assert "failed" not in err

    @pytest.mark.usefixtures("sigint")
    def test_ctrl_c_of_which_native_code_keeps_nothing(
        self, trained: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As pybind11 in TensorFlow does, where it comes while another error is on its way."""

        def replaced(*_: object) -> None:
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            raise RuntimeError("pybind11::error_already_set: MISMATCH of original and normalized")

        monkeypatch.setattr("pipeline.stages.report", replaced)
        monkeypatch.setattr(moments._MomentsHead, "_moments", replaced)
        for given in (("report",), ("train", "--head", "ridge"), ("train", "--head", "all")):
            code, _, err = trained(*given)
            assert code == 130
            assert "interrupted; finished work is kept. To resume: make" in err
            assert "failed" not in err
        self.fail(monkeypatch, RuntimeError("a defect"))
        with pytest.raises(RuntimeError, match="a defect"):  # what was noted is of another command
            trained("report")

    def test_ctrl_c_before_the_options_are_known(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def pressed(_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("pipeline.__main__.parser", pressed)
        assert main(["train", "--head", "ridge"]) == 130
        assert capsys.readouterr().err.endswith(
            "To resume: .venv/bin/python -m pipeline train --head ridge\n"
        )

    @pytest.mark.parametrize(("error", "line"), MEMORY)
    def test_memory_that_runs_out(
        self, trained: Project, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
    ) -> None:
        self.fail(monkeypatch, error)
        code, _, err = trained("train", "--head", "ridge")
        assert code == 2
        last = err.splitlines()[-1]
        assert last.startswith(f"error: {line}fewer images (LIMIT=) or narrower layers (LAYERS=) would need")
        assert "asked for: make train" in last
        code, _, err = trained("train", "--head", "all")
        assert code == 1
        assert f"failed: ridge with seed 0: {line}" in err
        assert not (trained.out / "logs").exists()

    def test_any_other_error_of_the_interpreter_is_a_defect(
        self, trained: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.fail(monkeypatch, SystemError("no cause"))
        with pytest.raises(SystemError, match="no cause"):
            trained("report")
