"""What no file can be called is refused in one line, before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.options import PATHS


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("x" * 5_000, f"={'x' * 60}...: expected a path of at most 4,095 bytes"),
        ("x/" * 2_500, "expected a path of at most 4,095 bytes"),
        ("x" * 256, "names of at most 255, came 256; give a shorter one"),
        ("~nouser/x", "=~nouser/x: there is no such user here; give the path without ~"),
        ("caf\udce9", r"='caf\udce9': expected UTF-8; rename it, or give another"),
        ("loop/x", "=loop/x: a link there leads to itself; put it right"),
        ("", ""),
    ],
    ids=["long", "deep", "long name", "nobody", "no UTF-8", "loop", "empty"],
)
def test_every_path_is_looked_at_first(
    name: str,
    value: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    stage = "predict" if name == "image" else "features"
    assert main([stage, "--dataset", "digits", f"--{name}", value]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isascii()
    assert line.startswith(f"error: {name.upper()}=") or (name, value) == ("image", "")
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]


def test_text_that_is_no_path_is_utf_8_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--head", "caf\udce9"]) == 2
    assert capsys.readouterr().err.startswith(r"error: HEAD='caf\udce9': expected UTF-8; ")


def test_a_folder_that_is_no_utf_8_is_no_place_for_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / "caf\udce9"
    odd.mkdir()
    monkeypatch.chdir(odd)
    assert main(["features", "--dataset", "digits"]) == 2
    line = capsys.readouterr().err
    assert line.isascii()
    assert r"/caf\udce9/out': expected UTF-8" in line
    assert not list(odd.iterdir())


@pytest.mark.parametrize("variable", ["HEADROOM_CACHE", "KERAS_HOME"])
def test_a_cache_folder_of_nobody_is_named(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv(variable, "~nouser/x")
    monkeypatch.chdir(tmp_path)
    assert main(["features", "--dataset", "cifar10"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {variable}=~nouser/x: there is no such user here")
