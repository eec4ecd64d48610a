"""One Report, three renderings; text from data is only ever text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from models.runs import Run
from reports import plots
from reports.render import markdown, row_names, write
from reports.report import build
from tests.test_heads import blobs
from tests.test_selection import Fake, train

NASTY = ("<script>alert(1)</script>", "=cmd()|' /C calc'!A0", "a|b ```c``` *d* _e_ $x$")
SPEC = {"weights": "imagenet", "image_size": 32, "preprocess": "imagenet", "precision": "float32"}


def make(head: str, seed: int = 0, names: tuple[str, ...] = NASTY, test_rows: int = 60) -> Run:
    fake = Fake(*blobs(rows=160 + test_rows), train=160)
    fake.class_names, fake.spec = names, SPEC  # type: ignore[misc]
    run = train(fake, head, seed)
    run.command = f"make train HEAD={head}"
    return run


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    return [make("logistic"), make("dense"), make("dense", seed=1)]


class Page(HTMLParser):
    """What a browser would build: tags, their attributes, and the text between."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def folder(runs: list[Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(build(runs, {}), tmp_path_factory.mktemp("report")).parent


def test_class_names_stay_text(folder: Path) -> None:
    page = Page((folder / "index.html").read_text())
    assert "script" not in {tag for tag, _ in page.tags}
    for name in NASTY:
        assert name in page.text
    text = (folder / "report.md").read_text()
    outside_code = re.sub(r"(?ms)^(`{3,})text$.*?^\1$|`[^`\n]*`", "", text)
    assert "<script" not in outside_code
    assert "```" not in outside_code


def test_the_page_asks_for_nothing(folder: Path) -> None:
    page = Page((folder / "index.html").read_text())
    for tag, attributes in page.tags:
        assert tag not in ("img", "iframe", "object", "embed"), "figures are inline"
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:"))


def test_all_three_renderings_tell_the_same_numbers(folder: Path) -> None:
    document = json.loads((folder / "report.json").read_text())
    page, text = (folder / "index.html").read_text(), (folder / "report.md").read_text()
    (group,) = document["groups"]
    assert len(group["entries"]) == 3
    for entry in group["entries"]:
        for metric in ("accuracy", "macro_f1"):
            value = f"{entry[metric]['value']:.4f}"
            assert value in page
            assert value in text
        assert entry["text"] in text


def test_entries_are_best_first(runs: list[Run]) -> None:
    accuracy = [entry.accuracy["value"] for entry in build(runs, {}).groups[0].entries]
    assert accuracy == sorted(accuracy, reverse=True)


def test_only_runs_on_the_same_test_images_share_a_table(runs: list[Run]) -> None:
    other = make("logistic", test_rows=50)
    renamed = make("logistic", names=("x", "y", "z"))
    sizes = [len(group.entries) for group in build([*runs, other, renamed], {}).groups]
    assert sorted(sizes) == [1, 1, 3]


def test_equal_heads_are_told_apart(runs: list[Run]) -> None:
    names = row_names(build(runs, {}).groups[0])
    assert sorted(names) == ["dense (seed 0)", "dense (seed 1)", "logistic"]


def test_every_run_has_its_figures(folder: Path, runs: list[Run]) -> None:
    figures = {path.stem for path in (folder / "figures").iterdir()}
    for run in runs:
        kind = "curves" if run.history else "sweep"
        assert {f"confusion-{run.id}", f"{kind}-{run.id}"} <= figures
    linked = set(re.findall(r"\(figures/([^)]+)\.svg\)", (folder / "report.md").read_text()))
    assert linked == figures


def test_building_again_gives_the_same_page(runs: list[Run], folder: Path, tmp_path: Path) -> None:
    again = write(build(runs, {}), tmp_path)
    strip = re.compile(r"Made [^.]*\.")
    assert strip.sub("", again.read_text()) == strip.sub("", (folder / "index.html").read_text())


@pytest.mark.parametrize("classes", [2, 25, 60])
def test_figures_fit_any_number_of_classes(runs: list[Run], classes: int) -> None:
    entry = build(runs, {}).groups[0].entries[0]
    wide = np.random.default_rng(0).integers(0, 50, (classes, classes)).tolist()
    object.__setattr__(entry, "confusion", wide)
    figure = plots.confusion_matrix(entry, [f"class {number}" for number in range(classes)])
    figure.canvas.draw()
    assert len(figure.axes[0].texts) == (classes**2 if classes <= plots.ANNOTATED else 0) - wide_zeros(
        wide, classes
    )


def wide_zeros(wide: list[list[int]], classes: int) -> int:
    """Empty cells carry no number."""
    return int((np.array(wide) == 0).sum()) if classes <= plots.ANNOTATED else 0


def test_axes_have_names_and_units(runs: list[Run]) -> None:
    group = build(runs, {}).groups[0]
    dense = next(entry for entry in group.entries if entry.history)
    linear = next(entry for entry in group.entries if not entry.history)
    figures = [
        plots.comparison(group, row_names(group)),
        plots.curves(dense),
        plots.sweep(linear),
        plots.confusion_matrix(dense, group.class_names),
    ]
    for figure in figures:
        assert all(axes.get_xlabel() or axes.get_ylabel() for axes in figure.axes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a|b", "a\\|b"), ("<b>", "&lt;b&gt;"), ("x\ny", "x y"), ("*_`", "\\*\\_\\`"), ("plain", "plain")],
)
def test_markdown_is_escaped(text: str, expected: str) -> None:
    assert markdown(text) == expected
