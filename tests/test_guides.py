"""Each guide's commands run as they are printed, on a few pictures, with a stand-in for the network."""

from __future__ import annotations

import io
import json
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import NamedTuple

import pytest

from features.backbones.extractor import Extractor
from features.datasets.registry import DATASETS, open_dataset
from models import ladder
from models.runs.collection import load_all
from pipeline.__main__ import main
from reports import gains
from tests.conftest import Make
from tests.stand_in import embed

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
GUIDES = ROOT / "docs" / "guides"
SMALL = {"--images 50000": "--images 150", "SEEDS=5": "SEEDS=2", "make demo": "make demo LIMIT=60"}
NEXT = re.compile(r"^next: (make (train|report).*)$", re.M)


class Ran(NamedTuple):
    """One line of a guide, and what came of it."""

    line: str
    code: int
    out: str
    err: str


def steps(guide: str) -> list[tuple[str, str]]:
    """What a guide has the reader type, in order: lines of the shell, and whole blocks of Python."""
    found = []
    for language, block in re.findall(
        r"```(sh|python)\n(.*?)```", (GUIDES / f"{guide}.md").read_text(), re.S
    ):
        found += [(language, line) for line in (block.splitlines() if language == "sh" else [block])]
    return found


@pytest.fixture
def folder(tmp_path: Path, make_folder: Make, monkeypatch: pytest.MonkeyPatch, undrawn: None) -> Path:
    """An empty working folder, where CIFAR-10 is a few pictures and every network a stand-in."""
    images = make_folder({"train": 20, "test": 6}, classes=("cat", "dog"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(DATASETS, "cifar10", lambda asked: open_dataset(str(images), limit=asked.limit))
    monkeypatch.setattr(Extractor, "embed", embed)
    rungs = ladder.RUNGS[5:8]
    for module in (ladder, gains):
        monkeypatch.setattr(module, "RUNGS", rungs)
    return tmp_path


def recipe(words: list[str]) -> Iterator[list[str]]:
    """What the Makefile makes of a call: the words of each command line of Headroom."""
    done = subprocess.run(
        [*words, "--dry-run", "--assume-old=setup"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    variables = dict(word.split("=", 1) for word in words if "=" in word)
    for command in done.stdout.splitlines():
        _, found, arguments = command.partition("-m pipeline ")
        if found:
            yield shlex.split(Template(arguments).substitute(variables))


def follow(
    guide: str, weights: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Ran]:
    """Do what a guide says, step by step."""
    for language, step in steps(guide):
        code = 0
        if language == "python":
            exec(compile(step, f"docs/guides/{guide}.md", "exec"), {})
        else:
            line = step
            for large, small in SMALL.items():
                line = line.replace(large, small)
            code = _typed(line, weights, monkeypatch)
        yield Ran(step, code, *capsys.readouterr())


def _typed(line: str, weights: str, monkeypatch: pytest.MonkeyPatch) -> int:
    before, _, after = line.rpartition(" | ")
    words = shlex.split(after.partition(" > ")[0])
    if words[0] == ".venv/bin/python":
        monkeypatch.setattr(sys, "argv", words[1:])
        runpy.run_path(str(ROOT / words[1]), run_name="__main__")
        return 0
    assert words[0] == "make", line
    listed = subprocess.run(before or "true", shell=True, capture_output=True, text=True, check=True).stdout
    monkeypatch.setattr(sys, "stdin", io.StringIO(listed))
    code = 0
    for arguments in recipe(words):
        if arguments[0] != "report":
            arguments += ["--precision=float32"] + [f"--weights={weights}"] * ("WEIGHTS=" not in line)
        code = max(code, main(arguments))
    return code


def test_student(
    folder: Path, weights_path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for ran in follow("student", weights_path, monkeypatch, capsys):
        assert ran.code == 0, ran
        if "open this page" in ran.err:
            page = ran.out.splitlines()[-1]
            assert page == ("out/demo/report/index.html" if "demo" in ran.line else "out/report/index.html")
            assert (folder / page).is_file()
        else:
            assert len(NEXT.findall(ran.err)) == 1, "every command names the next one when it ends"
            assert NEXT.search(ran.err.splitlines()[-1])
    page = (folder / "out" / "demo" / "report" / "index.html").read_text()
    assert page.count("Accuracy and loss by epoch") and "precision    recall" in page
    assert "Where the gain came from" in (folder / "out" / "report" / "report.md").read_text()


def test_engineer(
    folder: Path, weights_path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = {each.line: each for each in follow("engineer", weights_path, monkeypatch, capsys)}
    (predict,) = (each for line, each in ran.items() if "make predict" in line)
    assert all(each.code == 0 for each in ran.values() if each is not predict)
    assert predict.code == 1, "unreadable files are skipped, and named on standard error"
    skipped = set(re.findall(r"^skipped: .*?(messy/\S+?\.jpg)", predict.err, re.M))
    assert skipped
    listed = subprocess.run(predict.line.split(" | ")[0], shell=True, capture_output=True, text=True).stdout
    images = [json.loads(line)["image"] for line in predict.out.splitlines()]
    assert images == [name for name in listed.split() if name not in skipped], "in the order of the list"
    (names,) = {path.read_text() for path in (folder / "out" / "logs").iterdir()}
    features = ran["make features DATASET=messy SKIP_UNREADABLE=1"].err
    assert f"left out: {len(names.splitlines())} unreadable pictures" in features
    verify = ran["make verify DATASET=messy SKIP_UNREADABLE=1"].out
    assert set(re.findall(r"^\w+", verify, re.M)) == {"ok"}


def test_researcher(
    folder: Path, weights_path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for ran in follow("researcher", weights_path, monkeypatch, capsys):
        assert ran.code == 0, ran
        if "LAYERS=block5" in ran.line:
            assert "embed:" not in ran.err, "needs no pass of its own"
    runs = load_all(folder / "out" / "runs")
    assert len(runs) == 2 * (1 + 2) + 1
    report = json.loads((folder / "out" / "report" / "report.json").read_text())
    (group,) = report["groups"]
    assert group["looks"] == len(runs), "each run looks at the test split once"
    assert [len(seeds["ids"]) for seeds in group["seeds"]] == [2, 2]
    assert group["pairs"], "paired tests"
    (random,) = {run.spec["weights"] for run in runs if run.spec["backbone"] == "mobilenetv2"}
    assert random.startswith("custom:")
    for name in ("index.html", "report.md", "runs.csv", "table.tex"):
        text = (folder / "out" / "report" / name).read_text()
        assert random in text, f"{name} says whose weights"
    for run in runs:
        assert run.fingerprint and run.versions and run.command.startswith("make train")


def test_every_guide_is_tried() -> None:
    tried = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in GUIDES.glob("*.md")} <= tried
