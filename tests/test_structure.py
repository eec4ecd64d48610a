"""Imports run one way: between the packages, between their sub-packages, and between files."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("features", "models", "reports", "pipeline")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
}


def imported(module: str) -> set[str]:
    """The project's modules that a module imports, at its top or later."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                full = f"{node.module}.{name.name}"
                found.add(full if full in MODULES else node.module)
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found & set(MODULES)


def room(module: str) -> str:
    """The sub-package that a module stands in, or the module itself."""
    package, _, rest = module.partition(".")
    return f"{package}.{rest.partition('.')[0]}" if rest else package


def test_imports_run_one_way() -> None:
    for module in MODULES:
        place = PACKAGES.index(module.partition(".")[0])
        for other in imported(module):
            assert PACKAGES.index(other.partition(".")[0]) <= place, f"{module} imports {other}"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_sub_package_stands_on_one_that_stands_on_it(package: str) -> None:
    graph: dict[str, set[str]] = {}
    for module in MODULES:
        if module.partition(".")[0] == package:
            below = {room(other) for other in imported(module) if other.partition(".")[0] == package}
            graph.setdefault(room(module), set()).update(below - {room(module), package})
    TopologicalSorter(graph).prepare()  # raises where there is a circle


def test_no_file_stands_on_one_that_stands_on_it() -> None:
    TopologicalSorter({module: imported(module) - {module} for module in MODULES}).prepare()


def test_no_file_name_stands_twice() -> None:
    names = Counter(path.name for path in MODULES.values())
    assert {name for name, times in names.items() if times > 1} <= {"__init__.py", "base.py", "registry.py"}


def test_importing_any_module_loads_no_tensorflow() -> None:
    modules = [module for module in MODULES if not module.endswith("__main__")]
    code = (
        f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\n"
        "sys.exit(' '.join({'tensorflow', 'keras'} & set(sys.modules)) or 0)"
    )
    started = time.monotonic()
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == run.stderr == "", f"importing prints nothing ({time.monotonic() - started:.1f} s)"
