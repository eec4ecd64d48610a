"""README, Makefile, design and command line say the same."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import shutil
import subprocess
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import numpy as np
import pytest

from features.backbones.extractor import VGG16
from features.backbones.registry import BACKBONES, DEFAULT
from features.backend import tensorflow
from features.datasets.registry import DATASETS
from models.heads.registry import HEADS
from pipeline.options import Options
from tests.messages import messages
from tests.stand_in import embed

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
OPTIONS = (ROOT / "docs" / "options.md").read_text()
DEPENDENCIES = (ROOT / "docs" / "dependencies.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
FIELDS = [field.name for field in dataclasses.fields(Options) if field.name != "said"]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_makefile_passes_every_option_by_name() -> None:
    (line,) = re.findall(r"^VARIABLES := (.*)$", MAKEFILE.replace("\\\n", ""), re.M)
    assert line.split() == [name.upper() for name in FIELDS]


def test_readme_is_read_in_three_minutes() -> None:
    assert len(README.splitlines()) <= 120


def test_every_variable_is_explained_once_with_its_default() -> None:
    found = re.findall(r"^\| `([A-Z_]+)` \| ([^|]*?) \|", OPTIONS, re.M)
    assert [name for name, _ in found] == [name.upper() for name in FIELDS]
    rows = dict(found)
    assert rows["LAYERS"] == f"`{BACKBONES[DEFAULT].layers}`"
    assert all(f"`{name}`" in OPTIONS for name in BACKBONES)
    constructors = [inspect.signature(Options).parameters, inspect.signature(VGG16).parameters]
    for name in FIELDS:
        defaults = [known[name].default for known in constructors if name in known]
        default = next((value for value in defaults if value is not None), None)
        if default is not None:
            assert rows[name.upper()] == f"`{int(default) if isinstance(default, bool) else default}`"


def test_every_head_is_listed() -> None:
    heads = OPTIONS.split("\n## Heads\n")[1].split("\n## ")[0]
    for name in HEADS:
        assert f"`{name}`" in README
        assert len(re.findall(rf"^\| `{name}` \|", heads, re.M)) == 1


def test_every_dependency_has_its_reason() -> None:
    for file in sorted(ROOT.glob("requirements*.txt")):
        for line in file.read_text().splitlines():
            if line and not line.startswith("#"):
                name, _, pinned = re.sub(r"\[.*\]", "", line).partition("==")
                assert pinned, f"{line} is not pinned"
                assert re.search(rf"^\| [^|]*\b{re.escape(name)}\b", DEPENDENCIES, re.M), name


def test_readme_repeats_figures_of_the_results() -> None:
    score = r"(0\.\d{3,4}) \((0\.\d{3,4})–(0\.\d{3,4})\)"
    results = (ROOT / "docs" / "results.md").read_text()
    known = {
        tuple(str(Decimal(number).quantize(Decimal("0.001"), ROUND_HALF_UP)) for number in found)
        for found in re.findall(score, results)
    }
    table = README.split("| images | embedding |")[1].split("\n\n")[0]
    shown = re.findall(score, table)
    assert len(shown) > 8
    assert set(shown) <= known


def test_the_lock_file_holds_every_pinned_package_with_hashes() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    held = dict(re.findall(r"^([\w.-]+==[^ ]+).*?\\\n((?:    --hash=sha256:[0-9a-f]{64}.*\n)+)", lock, re.M))
    for file in ("requirements.txt", "requirements-dev.txt", "requirements-parquet.txt"):
        for line in (ROOT / file).read_text().splitlines():
            assert line.startswith("#") or line in held, f"{line} is not in requirements.lock; run: make lock"
    assert lock.count("==") >= len(held) > 50
    assert "://" not in lock, "no host of a package index"


def test_design_names_every_file_beside_its_folder() -> None:
    design = (ROOT / "docs" / "design.md").read_text()
    for package in ("features", "models", "reports", "pipeline"):
        for path in (ROOT / package).rglob("*.py"):
            folder = path.parent.relative_to(ROOT)
            (files,) = re.findall(rf"^\*\*`{folder}/`\*\*(.*?)\n\n", design, re.M | re.S)
            assert path.name == "__init__.py" or re.search(rf"`{re.escape(path.name)}`\s", files), path


def test_links_in_the_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_make_alone_explains_every_target() -> None:
    text = make().stdout
    (targets,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.M)
    for target in targets.split():
        assert f"make {target} " in text, target


@pytest.mark.parametrize("target", ["features", "train", "help"])
def test_a_misspelt_variable_is_named_and_refused(target: str) -> None:
    done = make(target, "HAED=dense")
    assert done.returncode != 0
    assert "unknown variable HAED: expected one of DATASET" in done.stderr


def test_variables_become_options() -> None:
    done = make("--dry-run", "--assume-old=setup", "train", "HEAD=logistic", "IMAGE_SIZE=64")
    (line,) = [line for line in done.stdout.splitlines() if "pipeline train" in line]
    assert line.split()[-2:] == ['--image-size="$IMAGE_SIZE"', '--head="$HEAD"']


def test_a_list_of_settings_is_one_value() -> None:
    done = make("--dry-run", "--assume-old=setup", "train", "SET=hidden=(256,128),epochs=40")
    (line,) = [line for line in done.stdout.splitlines() if "pipeline train" in line]
    assert line.split()[-1] == '--set="$SET"'


@pytest.mark.parametrize(
    "value", ["x=(1,2),y=3", "a b", "a$b", "it's", 'say "x=1"', "--foo", "$(HOME)", "a x=1 run"]
)
def test_values_reach_the_command_as_they_were_typed(value: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    fake = tmp_path / ".venv" / "bin" / "python"
    fake.parent.mkdir(parents=True)
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    for name in ("requirements.txt", ".venv/bin/.ready"):
        (tmp_path / name).touch()
    done = subprocess.run(["make", "train", f"OUT={value}"], cwd=tmp_path, capture_output=True, text=True)
    assert f"--out={value}" in done.stdout.splitlines(), done.stderr


def test_a_chain_refuses_what_it_sets_itself() -> None:
    done = make("--dry-run", "--assume-old=setup", "demo", "DATASET=x")
    assert "make demo sets DATASET itself: leave it out" in done.stderr


def test_bench_refuses_what_it_does_not_read() -> None:
    done = make("--dry-run", "--assume-old=setup", "bench", "DATASET=x", "BATCH=3")
    assert "make bench does not read BATCH: leave it out" in done.stderr


@pytest.mark.parametrize(("value", "asked"), [("1", True), ("0", False), ("", False)])
def test_peers_1_is_the_only_yes(value: str, asked: bool) -> None:
    done = make("--dry-run", "--assume-old=setup", "bench", f"PEERS={value}")
    assert "benchmarks/extraction.py" in done.stdout
    assert ("--peers" in done.stdout) is asked


def test_locked_is_yes_or_no() -> None:
    assert "LOCKED=2: expected 0 or 1" in make("--dry-run", "setup", "LOCKED=2").stderr
    assert "--require-hashes" in make("--dry-run", "--always-make", "setup", "LOCKED=1").stdout
    assert "--require-hashes" not in make("--dry-run", "--always-make", "setup", "LOCKED=0").stdout


def test_a_variable_of_the_environment_is_not_an_option() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "--assume-old=setup", "train"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "HEAD": "x"},
    )
    assert "--head" not in done.stdout


def test_messages_are_listed_with_what_they_are_and_docstrings_are_not() -> None:
    source = '''
def f(x):
    """A docstring of words."""
    say(f"note: {x} is gone; compute it again")
    help = {"limit": "only this many" " images"}
    if x:
        raise UserError(f"limit={x}: expected a number" + ("; give one" if x else ""))
    return [x, "single"]
'''
    assert list(messages(source)) == [
        (4, "note", "note: {x} is gone; compute it again"),
        (5, "text", "only this many images"),
        (7, "error", "limit={x}: expected a number"),
        (7, "error", "; give one"),
    ]


def blocks(page: str) -> list[str]:
    """The Python in a document, block by block."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)


@pytest.mark.slow
def test_the_page_on_extending_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, with random weights and pixels in the files that it reads."""
    monkeypatch.chdir(tmp_path)
    for registry, name in ((BACKBONES, "mobilenet"), (DATASETS, "bloodmnist"), (HEADS, "bayes")):
        monkeypatch.setitem(registry, name, None)  # so that what the page puts there goes again
    tensorflow()
    import keras

    model = keras.applications.MobileNet(include_top=False, weights=None, input_shape=(64, 64, 3))
    model.save("mobilenet_1_0_224_tf_no_top.h5")
    labels = np.arange(96)[:, None] % 8
    noise = np.random.default_rng(0).integers(0, 64, (96, 28, 28, 3), dtype=np.uint8)
    pixels = noise + (24 * labels[:, :, None, None]).astype(np.uint8)
    arrays = {"train_images": pixels[:80], "train_labels": labels[:80]}
    np.savez("bloodmnist.npz", **arrays, test_images=pixels[80:], test_labels=labels[80:])
    known: dict[str, object] = {}
    for block in blocks("extending.md"):
        assert len(block.splitlines()) < 40
        exec(compile(block, "docs/extending.md", "exec"), known)
    assert np.shape(known["proba"]) == (5, 8)
    assert known["run"].val_accuracy > 0.5, "a class is a shade of grey"  # type: ignore[attr-defined]


@pytest.mark.usefixtures("undrawn")
def test_the_python_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], weights_path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(VGG16, "embed", embed)
    known: dict[str, object] = {}
    for block in blocks("python.md"):
        code = block.replace(
            "image_size=32)", f"image_size=32, precision='float32', weights={weights_path!r})"
        )
        exec(compile(code, "docs/python.md", "exec"), known)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["logistic", "knn", "centroid"]
    assert (tmp_path / lines[4]).name == "index.html"
    assert len(known["proba"]) == 10  # type: ignore[arg-type]


@pytest.mark.parametrize("package", ["features", "models", "reports"])
def test_every_public_name_is_there(package: str) -> None:
    module = importlib.import_module(package)
    assert all(getattr(module, name).__doc__ or name.isupper() for name in module.__all__)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_what_continuous_integration_imports_is_there() -> None:
    """Its scripts run after half an hour of work: a name that has moved is noticed here."""
    script = (ROOT / ".ci" / "run").read_text()
    imports = re.findall(r"^(from (?:features|models|reports|pipeline)\S* import .*)$", script, re.M)
    assert imports
    for line in imports:
        exec(line, {})
