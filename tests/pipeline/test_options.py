"""What no file can be called is refused in one line, before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from features.datasets import encoded
from pipeline.__main__ import main
from pipeline.options import PATHS
from tests.conftest import Project


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("x" * 5_000, f"={'x' * 60}...: expected a path of at most 4,095 bytes"),
        ("x/" * 2_500, "expected a path of at most 4,095 bytes"),
        ("x" * 256, "names of at most 255, got 256; give a shorter one"),
        ("~nouser/x", "=~nouser/x: there is no such user here; give the path without ~"),
        ("caf\udce9", r"='caf\udce9': expected UTF-8; rename it, or give another"),
        ("loop/x", "=loop/x: a symbolic link there points to itself; remove it"),
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


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image-size", "100000", "the network with IMAGE_SIZE=100000 and BATCH=5 needs at least 2,"),
        ("batch", "1000000000", "the network with IMAGE_SIZE=32 and BATCH=1000000000 needs at least 4"),
        ("image-size", "9" * 4_000, f"IMAGE_SIZE={'9' * 60}...: expected a number of at most 9,223,372"),
        ("limit", "-" + "9" * 30, f"LIMIT=-{'9' * 30}: expected a number of at most 9,223,372"),
        ("layers", f"block5@{'9' * 5_000}", f"LAYERS=block5@{'9' * 53}...: expected some of block1"),
        ("layers", "block5@999999", "LAYERS=block5@999999: a 999999 x 999999 grid, but at 32 px block5"),
    ],
    ids=["size", "batch", "digits", "negative", "grid of digits", "grid"],
)
def test_what_cannot_fit_is_refused_before_a_picture_is_read(
    name: str, value: str, message: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoded, "read_square", lambda *_: pytest.fail("a picture is read"))
    code, _, err = project("features", "--layers", "block5", "--precision", "auto", f"--{name}", value)
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith(f"error: {message}")


@pytest.mark.parametrize("variable", ["HEADROOM_CACHE", "KERAS_HOME"])
def test_a_cache_folder_of_nobody_is_named(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv(variable, "~nouser/x")
    monkeypatch.chdir(tmp_path)
    assert main(["features", "--dataset", "cifar10"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {variable}=~nouser/x: there is no such user here")
