"""The fast tests run under every Python that README names and that is there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / ".ci" / "pythons"
FAKE = """#!/bin/sh
echo "$@" >> "$LOG"
if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
"""
SHIM = "#!/bin/sh\necho 'command not found' >&2; exit 127\n"


def versions() -> list[str]:
    (listed,) = re.findall(r"^for version in (.*); do$", SCRIPT.read_text(), re.M)
    return list(listed.split())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A checkout whose .venv is of this Python, where no other can be called."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(SCRIPT, tmp_path / ".ci")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    for name in ("requirements.txt", "requirements-dev.txt", "requirements-parquet.txt"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    for version in versions():
        program(tmp_path / "path" / f"python{version}", SHIM)
    return tmp_path


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def run(home: Path) -> tuple[str, str]:
    """What it prints, and the arguments of every call of a Python."""
    log = home / "log"
    log.write_text("")
    environment = {"PATH": f"{home / 'path'}:/usr/bin:/bin", "HOME": str(home), "LOG": str(log)}
    done = subprocess.run([home / ".ci" / "pythons"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, log.read_text()


def others() -> list[str]:
    return [version for version in versions() if version != f"3.{sys.version_info.minor}"]


def test_they_are_those_that_readme_names() -> None:
    ((first, last),) = re.findall(r"Python 3\.(\d+) to 3\.(\d+)", (ROOT / "README.md").read_text())
    assert versions() == [f"3.{minor}" for minor in range(int(first), int(last) + 1)]


def test_one_that_cannot_be_called_is_named_and_skipped(home: Path) -> None:
    printed, calls = run(home)
    assert [line.split(",")[0] for line in printed.splitlines()] == [
        f"Python {version}: skipped" for version in others()
    ]
    assert not calls


@pytest.mark.parametrize("place", ["path/python{}", ".pyenv/versions/{}.1/bin/python"])
def test_one_on_the_path_or_in_pyenv_is_tested_and_installed_once(home: Path, place: str) -> None:
    found, missing = others()
    program(home / place.format(found), FAKE)
    printed, calls = run(home)
    assert f"Python {found}: the fast tests" in printed
    assert f"Python {missing}: skipped" in printed
    assert (
        "pip install" in calls
        and "-rrequirements.txt -rrequirements-dev.txt -rrequirements-parquet.txt" in calls
    )
    assert calls.splitlines()[-1] == "-m pytest --numprocesses auto --dist worksteal -m not slow"
    _, calls = run(home)
    assert "pip install" not in calls and "pytest" in calls
    os.utime(home / "requirements-dev.txt")
    os.utime(home / f".venv-{found}" / ".ready", (1, 1))
    _, calls = run(home)
    assert "pip install" in calls
