"""Each guide's commands run as they are printed, on a few pictures, with a stand-in for the network."""

from __future__ import annotations

import io
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from features.backbones.extractor import VGG16
from features.datasets.registry import DATASETS, open_dataset
from models import ladder
from models.runs.collection import load_all
from pipeline.__main__ import main
from tests.conftest import Make
from tests.stand_in import embed

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
GUIDES = ROOT / "docs" / "guides"
CHAINS = {  # what the Makefile makes of a target, but for the report
    "demo": [["features"], ["train", "HEAD=logistic"]],
    "baseline": [
        ["features", "LAYERS=block5", "PREPROCESS=unit"],
        ["train", "LAYERS=block5", "PREPROCESS=unit", "HEAD=baseline"],
    ],
}


def commands(guide: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (GUIDES / f"{guide}.md").read_text(), re.S)
    return [line for block in blocks for line in block.splitlines()]


@pytest.fixture
def folder(tmp_path: Path, make_folder: Make, weights_path: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, where CIFAR-10 is a few pictures and VGG16 a stand-in."""
    images = make_folder({"train": 20, "test": 6}, classes=("cat", "dog"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(DATASETS, "cifar10", lambda asked: open_dataset(str(images), limit=asked.limit))
    monkeypatch.setattr(VGG16, "embed", embed)
    monkeypatch.setattr(ladder, "RUNGS", ladder.RUNGS[6:8])
    return tmp_path


def run(line: str, weights: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """One line of a guide; ``make`` and its variables become a call of the command line."""
    before, _, after = line.rpartition(" | ")
    words = shlex.split(after.partition(" > ")[0])
    if words[0] == ".venv/bin/python":
        monkeypatch.setattr(sys, "argv", [word.replace("50000", "150") for word in words[1:]])
        runpy.run_path(str(ROOT / words[1]), run_name="__main__")
        return 0
    assert words[0] == "make", line
    listed = subprocess.run(before or "true", shell=True, capture_output=True, text=True, check=True).stdout
    monkeypatch.setattr(sys, "stdin", io.StringIO(listed))
    code = 0
    for target, *variables in CHAINS.get(words[1], [words[1:]]):
        options = [f"--{name.lower().replace('_', '-')}={value}" for name, value in map(split, variables)]
        network = target != "report" and "WEIGHTS=" not in line
        options += [f"--weights={weights}"] * network + ["--precision=float32"]
        code = max(code, main([target, *options]))
    return code


def split(variable: str) -> tuple[str, str]:
    name, _, value = variable.partition("=")
    return name, value


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("guide", ["student", "engineer"])
def test_its_commands_run_in_this_order(
    guide: str, folder: Path, weights_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = commands(guide)
    for number, line in enumerate(lines):
        if line == "make report" and line in lines[number + 1 :]:
            continue  # the last one shows every run
        expected = 1 if "make predict" in line else 0  # unreadable pictures are named, and skipped
        assert run(line, weights_path, monkeypatch) == expected, line
    assert load_all(folder / "out" / "runs")


def test_every_guide_is_tried() -> None:
    assert {path.stem for path in GUIDES.glob("*.md")} == {"student", "engineer", "researcher"}
