"""Of very many classes page and Markdown show the worst; CSV files hold all."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from models.runs.run import Run
from reports.page.excerpt import classification_report, worst
from reports.page.render import write
from reports.report import build
from tests.small_group import group_of, run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


def many(classes: int, images: int = 10) -> Run:
    """Of class ``c``, ``c % images`` images are called the next class; the last class has no images."""
    labels = np.repeat(np.arange(classes - 1), images)
    wrong = np.tile(np.arange(images), classes - 1) < labels % images
    says = np.where(wrong, (labels + 1) % classes, labels)
    return run(
        "ridge",
        (),
        labels=labels,
        class_names=tuple(f"class {code:03d}" for code in range(classes)),
        test_proba=0.1 / classes + 0.9 * np.eye(classes)[says],
    )


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_up_to_40_classes_all_are_shown_in_their_order() -> None:
    (entry,) = group_of(many(40)).entries
    assert worst(entry.per_class) == entry.per_class
    assert classification_report(entry) == entry.text


def test_of_more_the_worst_20_that_have_images_come_worst_first() -> None:
    (entry,) = group_of(many(41)).entries
    shown = worst(entry.per_class)
    scores = [row["f1"] for row in shown]
    assert len(shown) == 20 and scores == sorted(scores)
    assert max(scores) <= min(row["f1"] for row in entry.per_class if row["support"] and row not in shown), (
        "none that is left out is worse"
    )
    assert "class 040" not in [row["class"] for row in shown], "without images nothing can be bad"
    by_recall = worst(entry.per_class, "recall")
    assert [row["recall"] for row in by_recall[:4]] == pytest.approx([0.1] * 4)


def test_the_report_in_text_has_the_lines_of_those_and_the_averages() -> None:
    (entry,) = group_of(many(41)).entries
    lines = classification_report(entry).split("\n")
    every = entry.text.split("\n")
    assert lines[:2] == every[:2] and lines[-5:] == every[-5:]
    assert [" ".join(line.split()[:2]) for line in lines[2:22]] == [
        row["class"] for row in worst(entry.per_class)
    ]
    assert set(lines) <= set(every)


@pytest.mark.usefixtures("undrawn")
def test_page_and_markdown_show_the_worst_and_say_where_the_rest_is(tmp_path: Path) -> None:
    page = write(build([many(41)]), tmp_path)
    text = page.read_text()
    for shown in (text, page.with_name("report.md").read_text()):
        assert "The 20 classes of lowest F1, worst first; " in shown
        assert "holds all 41." in shown
    assert text.count('<th scope="row">class 0') - len(_confused(text)) == 20


def _confused(text: str) -> list[str]:
    """Rows of the table of confused pairs, whose first column is a class too."""
    table = text.split("confuses most.</caption>")[1].split("</table>")[0]
    return table.split('<th scope="row">')[1:]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("classes", [4, 41])
def test_csv_files_hold_every_class_and_every_cell(classes: int, tmp_path: Path) -> None:
    report = build([many(classes)])
    page = write(report, tmp_path)
    (entry,) = report.groups[0].entries
    found = rows_of(page.with_name("classes.csv"))
    assert [(row["run"], row["name"]) for row in found] == [(entry.folder, "ridge")] * classes
    for row, kept in zip(found, entry.per_class, strict=True):
        assert row["class"] == kept["class"] and int(row["support"]) == kept["support"]
        for name in ("precision", "recall_low", "f1", "f1_high"):
            assert float(row[name]) == kept[name]
    cells = rows_of(page.with_name("confusion.csv"))
    names = report.groups[0].class_names
    counts = np.zeros((classes, classes), int)
    for row in cells:
        counts[names.index(row["true"]), names.index(row["predicted"])] = int(row["images"])
    assert counts.tolist() == entry.confusion
    assert all(int(row["images"]) > 0 for row in cells)


@pytest.mark.parametrize(("classes", "held"), [(200, True), (201, False)])
def test_json_holds_confusion_matrices_of_up_to_200_classes(classes: int, held: bool) -> None:
    document: dict[str, Any] = json.loads(json.dumps(build([many(classes, images=2)]).to_json()))
    schema = json.loads((ROOT / "docs" / "report.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(document)
    (entry,) = document["groups"][0]["entries"]
    assert (entry["confusion"] is not None) is held
    assert len(entry["per_class"]) == classes
