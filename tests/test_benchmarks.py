"""Benchmarks are run seldom, and still start: what they import is there, in code for child processes too."""

from __future__ import annotations

import ast
import re
import runpy
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))
COMMANDS = [path for path in BENCHMARKS if "__main__" in path.read_text()]
OURS = ("features", "models", "reports", "pipeline", *(path.stem for path in BENCHMARKS))
CODE = re.compile(r"^(import \w|from [\w.]+ import )", re.M)


def parts(source: str) -> Iterator[ast.AST]:
    """The nodes of some Python, and of the texts in it that are Python with imports of their own."""
    for node in ast.walk(ast.parse(source)):
        yield node
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.search(node.value):
            yield from parts(node.value)


def imported(source: str) -> set[str]:
    """What is imported of this project, as ``module:name``; ``module:`` is a module as a whole."""
    found = set()
    for node in parts(source):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}:{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {f"{name.name}:" for name in node.names}
    return {name for name in found if re.split(r"[.:]", name)[0] in OURS}


def missing(source: str) -> list[str]:
    """What of it is not there."""
    found = []
    for full in sorted(imported(source)):
        module, _, name = full.partition(":")
        try:
            if name and not hasattr(import_module(module), name):
                import_module(f"{module}.{name}")
            import_module(module)
        except ModuleNotFoundError:
            found.append(full)
    return found


@pytest.fixture(autouse=True)
def beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if they were started: their folder comes first, and what they add to the path goes again."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS[0].parent), *sys.path])


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_what_it_imports_is_there(path: Path) -> None:
    assert missing(path.read_text()) == []


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_it_says_how_it_is_called(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_a_name_that_has_moved_is_found_wherever_it_is_imported() -> None:
    """In code for a child process within a function, as at the top."""
    child = '"""\nimport sys\nfrom models.runs.saving import gone\nimport features.gone\n"""'
    source = f"from features.extraction import extract\ndef run():\n    return [{child}]\n"
    assert missing(source) == ["features.gone:", "models.runs.saving:gone"]
    with pytest.raises(SyntaxError):
        missing("CHILD = 'import sys\\nx ='")
