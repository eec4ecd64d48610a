"""Scores on other images: a kept file is shown as it was written, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.cache.embeddings import canonical_digest
from reports.context.evaluations import FORMAT, load_all, save
from reports.evaluation import evaluation
from tests.small_group import IMAGES, LABELS, evaluated, probabilities, run

RIDGE = run("ridge", range(150))
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def passed_over(root: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Why the only file is not shown."""
    assert load_all(root, [RIDGE]) == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: passed over: ")
    return line


def test_what_is_written_is_read(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, document = save(root, RIDGE, evaluated(RIDGE))
    assert path == root.parent / "evaluations" / f"{RIDGE.folder}--zoo-eeeeeeeeeeee.json"
    assert (document["format"], document["run"]) == (FORMAT, RIDGE.folder)
    assert load_all(root, [RIDGE]) == [document]
    assert capsys.readouterr().err == ""


def test_paired_ones_are_read_too(root: Path) -> None:
    rows = np.arange(0, IMAGES, 2)  # ants and cats
    numbers = evaluation(RIDGE, LABELS[rows], probabilities(LABELS[rows]), rows)
    _, document = save(root, RIDGE, evaluated(RIDGE) | {"absent_classes": ["bee", "dog"]} | numbers)
    assert document["difference"]["method"] == "paired"
    assert load_all(root, [RIDGE]) == [document]


def test_an_equal_one_replaces_it_and_other_images_stand_beside_it(root: Path) -> None:
    for right, digest in ((40, "e"), (30, "e"), (20, "a")):
        save(root, RIDGE, evaluated(RIDGE, right, test_digest=digest * 64))
    assert [found["accuracy"]["value"] for found in load_all(root, [RIDGE])] == [0.4, 0.6]


def test_without_a_folder_there_are_none(root: Path) -> None:
    assert load_all(root, [RIDGE]) == []


def test_those_of_runs_that_are_not_reported_are_left_out_without_a_word(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(root, RIDGE, evaluated(RIDGE))
    assert load_all(root, [run("lda", range(9))]) == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("again", [{"right": range(149)}, {"right": range(150), "temperature": 2.0}])
def test_one_of_a_run_that_was_trained_again_is_passed_over(
    root: Path, capsys: pytest.CaptureFixture[str], again: dict[str, Any]
) -> None:
    before = run("ridge", **again)
    assert before.folder == RIDGE.folder
    save(root, before, evaluated(before))
    line = passed_over(root, capsys)
    assert line.endswith("its run was trained again since; run: make evaluate DATASET=/zoo")


def test_a_copy_is_not_shown_twice(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, document = save(root, RIDGE, evaluated(RIDGE))
    path.with_name("copy.json").write_bytes(path.read_bytes())
    assert load_all(root, [RIDGE]) == [document]
    assert "copy.json was copied or renamed" in capsys.readouterr().err


def test_one_of_another_format_is_passed_over(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, document = save(root, RIDGE, evaluated(RIDGE))
    path.write_text(json.dumps(document | {"format": 1}))
    assert f"has format 1, this Headroom reads {FORMAT}; score it again" in passed_over(root, capsys)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"1", b"\xff", b'{"format": 2}', b"[" * 100_000]
)
def test_what_is_no_evaluation_is_passed_over(
    root: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    path, _ = save(root, RIDGE, evaluated(RIDGE))
    path.write_bytes(content)
    assert "is damaged; remove it, then score it again" in passed_over(root, capsys)


def test_a_changed_digit_is_noticed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = save(root, RIDGE, evaluated(RIDGE))
    text = path.read_text()
    assert '"log_loss": 0.' in text
    path.write_text(text.replace('"log_loss": 0.', '"log_loss": 1.', 1))
    assert "is damaged" in passed_over(root, capsys)


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.pop("looks"),
        lambda found: found.update(more=1),
        lambda found: found.update(looks=0),
        lambda found: found.update(looks=True),
        lambda found: found.update(images=50.0),
        lambda found: found.update(warnings=[1]),
        lambda found: found.update(unknown_classes={"emu": 0}),
        lambda found: found.update(unknown_classes=["emu"]),
        lambda found: found.update(command=None),
        lambda found: found.update(test_digest="e" * 63 + "g"),
        lambda found: found.update(per_class={}),
        lambda found: found["dataset"].update(limit=0),
        lambda found: found["accuracy"].update(high=1.1),
        lambda found: found["accuracy"].update(low=0.9),
        lambda found: found["accuracy"].update(value="0.8"),
        lambda found: found["calibration"].update(log_loss=float("nan")),
        lambda found: found["calibration"].update(log_loss=float("inf")),
        lambda found: found["calibration"]["ece"].update(value=-0.1),
        lambda found: found["difference"].update(value=-2),
        lambda found: found["difference"].update(method="guessed"),
        lambda found: found["difference"].update(method="paired"),
        lambda found: found["per_class"][0].update(recall=2),
        lambda found: found["per_class"][0].update(support=-1),
    ],
)
def test_types_and_ranges_are_looked_at_even_where_the_digest_is_right(
    root: Path, capsys: pytest.CaptureFixture[str], change: Change
) -> None:
    path, document = save(root, RIDGE, evaluated(RIDGE))
    change(document)
    rewrite(path, document)
    assert "is damaged" in passed_over(root, capsys)


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.update(images=51),
        lambda found: found.update(absent_classes=[]),
        lambda found: found.update(unknown_classes={"ant": 3}),
        lambda found: found["per_class"].pop(),
        lambda found: found["per_class"].reverse(),
        lambda found: found["per_class"][0].update(recall=0.5),
        lambda found: found["per_class"][3].update(recall=0.5),
        lambda found: found["difference"].update(value=0.5),
        lambda found: found["difference"].update(low=0.9, high=-0.9),
        lambda found: found["own_test"].update(images=200),
        lambda found: found["difference"].update(method="paired", p=0.5, here_only=1, there_only=1),
    ],
)
def test_numbers_that_cannot_be_the_runs_are_not_shown(
    root: Path, capsys: pytest.CaptureFixture[str], change: Change
) -> None:
    path, document = save(root, RIDGE, evaluated(RIDGE))
    change(document)
    rewrite(path, document)
    assert "does not fit its run" in passed_over(root, capsys)


def rewrite(path: Path, document: dict[str, Any]) -> None:
    """As if Headroom itself had written it."""
    rest = {name: value for name, value in document.items() if name != "sha256"}
    path.write_text(json.dumps(rest | {"sha256": canonical_digest(rest)}))
