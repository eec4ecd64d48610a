"""One Report, all renderings; text from data is only ever text."""

from __future__ import annotations

import csv
import hashlib
import html
import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from filelock import FileLock

from features.errors import UserError
from models.curve import Curve
from models.runs.run import Run
from reports.context.gathering import ReportContext
from reports.figures import run_plots
from reports.page import render
from reports.page.render import current, draw, markdown, write
from reports.page.spreadsheet import cell
from reports.report import Report, build
from reports.statistics.ranking import names_of
from tests import small_group
from tests.models.heads.test_heads import blobs
from tests.models.test_selection import Fake, train

pytestmark = pytest.mark.slow

EMPTY = hashlib.sha256(b"").hexdigest()
ROOT = Path(__file__).parents[3]
NASTY = ("<script>alert(1)</script>", "=cmd()|' /C calc'!A0", "a|b ```c``` *d* _e_ $x$")
SPEC = {
    "backbone": "vgg16",
    "weights": "imagenet",
    "image_size": 32,
    "preprocess": "imagenet",
    "precision": "float32",
    "mirror": False,
}


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
def report(runs: list[Run]) -> Report:
    return build(runs, ReportContext(looks={runs[0].test_digest: 7}))


@pytest.fixture(scope="module")
def folder(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(report, tmp_path_factory.mktemp("report"), state="s").parent


def test_class_names_stay_text(folder: Path) -> None:
    page = Page((folder / "index.html").read_text())
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [{}], "our own, and no other"
    for name in NASTY:
        assert name in page.text
    text = (folder / "report.md").read_text()
    outside_code = re.sub(r"(?ms)^(`{3,})text$.*?^\1$|`[^`\n]*`", "", text)
    assert "<script" not in outside_code
    assert "```" not in outside_code


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("form", "named"), [("csv", "=cmd()"), ("spreadsheet", "'=cmd()")])
def test_the_csv_holds_the_data_and_is_kept_from_running_only_when_asked(
    report: Report, tmp_path: Path, form: str, named: str
) -> None:
    (group,) = report.groups
    report = replace(report, groups=(replace(group, dataset="=cmd()"),))
    path = write(report, tmp_path, form=form).with_name("runs.csv")
    with open(path, encoding="utf-8" if form == "csv" else "utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["test_accuracy"]) for row in rows] == [
        entry.accuracy["value"] for entry in group.entries
    ]
    assert [(row["dataset"], row["name"]) for row in rows] == [(named, entry.name) for entry in group.entries]


def test_a_cell_for_a_spreadsheet_is_no_formula() -> None:
    for text in ("=cmd()", "@x", "-1", "+1", "\tx", "\rx"):
        assert (cell(text, "csv"), cell(text, "spreadsheet")) == (text, f"'{text}")
    for value in (-1.5, "dense", "", None):
        assert cell(value, "spreadsheet") == value


def test_the_page_asks_for_nothing(folder: Path) -> None:
    text = (folder / "index.html").read_text()
    for tag, attributes in Page(text).tags:
        assert tag not in ("iframe", "object", "embed")
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:"))
    assert len(text) < 8e6


def test_all_renderings_tell_the_same_numbers(folder: Path) -> None:
    document = json.loads((folder / "report.json").read_text())
    page, text = (folder / "index.html").read_text(), (folder / "report.md").read_text()
    (group,) = document["groups"]
    assert len(group["entries"]) == 3
    for entry in group["entries"]:
        for metric in ("accuracy", "macro_f1"):
            value = f"{entry[metric]['value']:.4f}"
            assert value in page
            assert value in text
        further = {id for seeds in group["seeds"] for id in seeds["ids"][1:]}
        assert entry["text"] in (html.unescape(page) if entry["id"] in further else text)
    for pair in group["pairs"]:
        assert f"{100 * pair['difference']:+.1f}" in page
        assert f"{100 * pair['difference']:+.1f}" in text


def test_the_json_is_what_its_schema_says(folder: Path) -> None:
    schema = json.loads((ROOT / "docs" / "report.schema.json").read_text())
    document = json.loads((folder / "report.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema)
    assert document["schema"] == schema["properties"]["schema"]["const"]
    document["groups"][0]["entries"][0]["accuracy"]["value"] = "0.9"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)


def test_entries_are_best_first_and_the_answer_names_the_first(report: Report) -> None:
    (group,) = report.groups
    assert [entry.head for entry in group.entries] in (
        ["logistic", "dense", "dense"],
        ["dense", "dense", "logistic"],
    )
    reached = {"dense": group.seeds[0].mean}
    reached["logistic"] = next(entry for entry in group.entries if entry.head == "logistic").accuracy["value"]
    best = group.entries[0].head
    assert reached[best] == max(reached.values()), "of several seeds the mean counts"
    assert group.answer.startswith(f"{best} has the highest test accuracy: {reached[best]:.1%}")
    assert group.looks == 7


@pytest.mark.usefixtures("undrawn")
def test_where_looks_may_be_missing_page_and_markdown_say_so(tmp_path: Path) -> None:
    text = "looks.jsonl is damaged or was changed at line 3"
    context = ReportContext(looks={small_group.DIGEST: 7}, looks_doubt=text)
    page = write(build([small_group.run("ridge", range(80))], context), tmp_path)
    said = f"predicted 7 times so far, including by deleted runs. There may have been more: {text}."
    assert said in Page(page.read_text()).text
    assert said in (tmp_path / "report.md").read_text().replace("\\", "")


def test_what_cannot_be_told_apart_is_said(runs: list[Run]) -> None:
    """Two heads of which each has one image right that the other has not."""
    one, two = make("ridge"), make("lda")
    for run, row in ((one, 3), (two, 4)):
        run.test_proba = np.eye(3)[run.test_labels]
        run.test_proba[row] = np.roll(run.test_proba[row], 1)
    (group,) = build([one, two]).groups
    (pair,) = group.pairs
    assert not pair.distinguishable
    assert "On this test set it is not distinguishable from ridge." in group.answer


@pytest.mark.usefixtures("undrawn")
def test_over_and_underfitting_is_told_of_the_best_head_that_was_fitted(tmp_path: Path) -> None:
    """A vote leads the table, but was not fitted: the line names the head behind it."""
    ridge = small_group.run("ridge", range(80))
    vote = small_group.run("vote", range(90), members={"a": 0.5, "b": 0.5}, sweep=[])
    page = write(build([ridge, vote]), tmp_path).read_text()
    (told,) = re.findall(r"over- or underfitting\? <span>(\w+):", page)
    assert told == "ridge"


def test_seeds_share_a_row_with_mean_and_spread(report: Report, runs: list[Run]) -> None:
    (seeds,) = report.groups[0].seeds
    dense = [run for run in runs if run.head == "dense"]
    values = [float((run.test_proba.argmax(axis=1) == run.test_labels).mean()) for run in dense]
    assert seeds.name == "dense"
    assert seeds.mean == pytest.approx(np.mean(values))
    assert seeds.deviation == pytest.approx(np.std(values, ddof=1))
    compared = {id for pair in report.groups[0].pairs for id in (pair.first, pair.second)}
    assert compared == {runs[0].id, dense[0].id}, "pairs use the first seed"


def test_only_runs_on_the_same_test_images_share_a_table(runs: list[Run]) -> None:
    other = make("logistic", test_rows=50)
    renamed = make("logistic", names=("x", "y", "z"))
    sizes = [len(group.entries) for group in build([*runs, other, renamed]).groups]
    assert sorted(sizes) == [1, 1, 3]


def test_equal_heads_are_told_apart(runs: list[Run]) -> None:
    assert names_of(runs) == ["logistic", "dense (seed 0)", "dense (seed 1)"]


def test_every_configuration_has_its_figures(folder: Path, runs: list[Run]) -> None:
    figures = {path.name for path in (folder / "figures").iterdir()}
    for run in runs[:2]:  # the third differs in its seed alone
        kinds = ("accuracy", "loss") if run.history else ("sweep",)
        for kind in ("confusion", "reliability", *kinds):
            assert {f"{kind}-{run.id}.svg", f"{kind}-{run.id}.png"} <= figures
    linked = set(re.findall(r"\(figures/([^)]+)\)", (folder / "report.md").read_text()))
    assert linked <= figures


@pytest.mark.usefixtures("undrawn")
def test_two_reports_are_not_written_into_one_folder_at_a_time(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "PATIENCE", 0)
    with (
        FileLock(tmp_path / ".report.lock"),
        pytest.raises(UserError, match="is being written by another process; wait for it"),
    ):
        write(report, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_report_is_current_until_anything_changes(folder: Path) -> None:
    assert current(folder, "s") == folder / "index.html"
    assert current(folder, "t") is None
    kept = (folder / "report.md").read_text()
    (folder / "report.md").write_text(kept + " ")
    assert current(folder, "s") is None
    (folder / "report.md").write_text(kept)
    assert current(folder, "s")


def test_building_again_gives_the_same_page(runs: list[Run], folder: Path, tmp_path: Path) -> None:
    again = write(build(runs, ReportContext(looks={runs[0].test_digest: 7})), tmp_path)
    strip = re.compile(r"Made [^.]*\.")
    assert strip.sub("", again.read_text()) == strip.sub("", (folder / "index.html").read_text())


def test_axes_have_names_and_units(runs: list[Run]) -> None:
    knn = make("knn")
    points = [{"shots": shots, "images": 3 * shots, "accuracy": [0.5, 0.6]} for shots in (1, 10, 40)]
    rng = np.random.default_rng(0)
    drawn: dict[str, Any] = {
        "layers": ["block5"], "rows": list(range(60)),
        "labels": knn.test_labels.tolist(), "wrong": [True] * 60,
        "pca": rng.random((60, 2)).tolist(), "tsne": rng.random((60, 2)).tolist(), "explained": [0.3, 0.2],
    }  # fmt: skip
    every = [*runs, knn]
    context = ReportContext(
        curves={run.folder: Curve(run.folder, points) for run in runs}, maps={run.id: drawn for run in every}
    )
    drawn_figures = draw(build(every, context))
    kinds = {name.partition("-")[0] for name in drawn_figures}
    assert kinds == {
        "comparison", "pareto", "pairs", "coverage", "learning",
        "map", "confusion", "reliability", "accuracy", "loss", "sweep",
    }  # fmt: skip
    for name, figure in drawn_figures.items():
        named = all(
            axes.get_xlabel() or axes.get_ylabel() or name.startswith("pairs") for axes in figure.axes
        )
        assert named, name


def test_costs_that_all_heads_share_have_no_figure(tmp_path: Path) -> None:
    """One embedding costs all its heads the same; two of different sizes do not."""
    cache = small_group.Cache(tmp_path)
    larger = small_group.Cache(tmp_path)
    larger.fingerprint = "a" * 64
    larger.provenance["network_seconds"] = 9.0
    caches = {found.fingerprint: found for found in (cache, larger)}
    ridge, lda = small_group.run("ridge", range(150)), small_group.run("lda", range(120))
    lda.seconds = {"select": 1.0, "refit": 1.0, "predict": 0.1}
    network, disk, fit, predict = (
        "running the network over all images (s)",
        "embeddings on disk (MB)",
        "choosing and fitting the head (s)",
        "head's prediction of 1,000 vectors (ms)",
    )

    def drawn(*runs: Run) -> list[str]:
        report = build(runs, ReportContext(caches=caches))  # type: ignore[arg-type]
        return [axes.get_xlabel() for axes in draw(report)["pareto-0"].axes]

    assert drawn(ridge, lda) == [fit, predict]
    elsewhere = replace(lda, fingerprint="a" * 64)
    assert drawn(ridge, elsewhere) == [network, fit, predict], "both files have 1,234 bytes"
    larger.nbytes = 4321
    assert drawn(ridge, elsewhere) == [network, disk, fit, predict]


def test_a_loss_that_falls_by_orders_of_magnitude_is_on_a_logarithmic_axis() -> None:
    accuracy = {"accuracy": [0.1, 0.5], "val_accuracy": [0.1, 0.4]}
    for losses, scale in (([80_000.0, 2.0], "log"), ([3.0, 1.0], "linear"), ([3.0, 0.0], "linear")):
        history = {**accuracy, "loss": losses, "val_loss": [2.5, 2.0]}
        (entry,) = (
            build([small_group.run("dense", range(90), history=history, kept_epoch=2)]).groups[0].entries
        )
        drawn_figures = (run_plots.accuracy_by_epoch(entry), run_plots.loss_by_epoch(entry))
        assert [figure.axes[0].get_yscale() for figure in drawn_figures] == ["linear", scale]


@pytest.mark.parametrize(
    ("tried", "ticks", "scale"),
    [
        ((10.0, 0.1, 1.0), ["0.1", "1", "10"], "log"),
        ((0.5, 0.0, 0.25), ["0", "0.25", "0.5"], "linear"),
        (("rbf", None, "a$b$"), ["rbf", "None", "a$b$"], "linear"),
        ((True, False), ["True", "False"], "linear"),
        (([256, 128], [64]), ["[256, 128]", "[64]"], "linear"),
        ((0.1, "auto", 1), ["0.1", "auto", "1"], "linear"),
    ],
)
@pytest.mark.parametrize("others", [(), ("one_$", None)])
def test_a_sweep_is_drawn_over_whatever_was_tried(
    tried: tuple[Any, ...], ticks: list[str], scale: str, others: tuple[Any, ...], tmp_path: Path
) -> None:
    measured = {"accuracy": 0.5, "loss": 1.0, "train_accuracy": 0.6, "seconds": 1.0}
    if others:
        swept = [{"first": value, "second": other, **measured} for value in tried for other in others]
        chosen = {"first": tried[-1], "second": others[0]}
    else:
        swept, chosen = [{"value": value, **measured} for value in tried], {"first": tried[-1]}
    report = build([small_group.run("ridge", range(90), sweep=swept, chosen=chosen)])
    (figure,) = (figure for name, figure in draw(report).items() if name.startswith("sweep-"))
    (axes,) = figure.axes
    assert axes.get_xscale() == scale
    assert [label.get_text() for label in axes.get_xticklabels()] == ticks
    assert len(axes.get_lines()) == 3, "two curves and the chosen value"
    assert f"chosen, {run_plots.shown(tried[-1])})" in axes.get_xlabel()
    assert write(report, tmp_path).exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a|b", "a\\|b"), ("<b>", "&lt;b&gt;"), ("x\ny", "x y"), ("*_`", "\\*\\_\\`"), ("plain", "plain")],
)
def test_markdown_is_escaped(text: str, expected: str) -> None:
    assert markdown(text) == expected


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, of which one was scored on a folder with a nasty name and nasty classes."""
    ridge, lda = small_group.run("ridge", range(150)), small_group.run("lda", range(120))
    found = small_group.evaluated(
        ridge,
        dataset={"digest": "e", "name": NASTY[0], "source": "/zoo", "limit": 60},
        unknown_classes={NASTY[1]: 1, NASTY[2]: 2},
        warnings=["a warning"],
    )
    context = ReportContext(evaluations=[found], looks={"e" * 64: 1})
    return write(build([ridge, lda], context), tmp_path_factory.mktemp("report"))


class TestOnOtherImages:
    def test_page_and_markdown_show_its_numbers(self, elsewhere: Path) -> None:
        document = json.loads(elsewhere.with_name("report.json").read_text())
        (each,) = document["groups"][0]["evaluations"]
        text = elsewhere.with_name("report.md").read_text()
        page = Page(elsewhere.read_text()).text
        accuracy, own, change = (
            each["accuracy"], each["own_test"]["accuracy"], each["difference"]
        )  # fmt: skip
        for number in (
            *(f"{accuracy[end]:.4f}" for end in ("value", "low", "high")),
            f"{own['value']:.4f}",
            *(f"{100 * change[end]:+.1f}" for end in ("value", "low", "high")),
            f"{each['calibration']['ece']['value']:.3f}",
            f"{each['calibration']['log_loss']:.3f}",
        ):
            assert number in page[page.index("On other images") :]
            assert number in text[text.index("### On other images") :]
        assert each["sentence"] in page
        for said in ("These images have been predicted 1 time so far.", "a warning"):
            assert said in page and said in text
        assert "too: dog." in page and "(1 image)" in page and "(2 images)" in page
        assert f"on {NASTY[0]}" in page
        assert "<script>alert" not in text

    def test_classes_are_folded_away(self, elsewhere: Path) -> None:
        section = elsewhere.read_text().split("On other images")[1].split("What do the embeddings")[0]
        before, behind = section.split("By class, and what was scored")
        assert 'scope="row">ant<' not in before and 'scope="row">ant<' in behind
        assert before.rstrip().endswith("<summary>") and "<details>" in before

    def test_without_any_there_is_no_section(self, folder: Path) -> None:
        assert "On other images" not in (folder / "index.html").read_text()
        assert "On other images" not in (folder / "report.md").read_text()


@pytest.mark.usefixtures("undrawn")
def test_what_every_row_says_is_above_the_table(tmp_path: Path) -> None:
    ridge, lda = small_group.run("ridge", range(150)), small_group.run("lda", range(120))
    page = write(build([ridge, lda]), tmp_path / "one").read_text()
    text = (tmp_path / "one" / "report.md").read_text()
    for rendered in (page, text):
        (shared,) = re.findall(r"The same in every row: (.*?)\.(?:<|\n)", rendered)
        assert shared == (
            "vgg16, block5, 32 px, imagenet preprocessing, float32, imagenet weights, seed 0, "
            "trained on 60 images"
        )
    assert not re.search(r">(Embedding|Fingerprint|Seed|Cache \(MB\))</th>", page)
    assert "| embedding |" not in text

    big = small_group.run("lda", range(120), spec=small_group.SPEC | {"image_size": 64}, fingerprint="a" * 64)
    page = write(build([ridge, big]), tmp_path / "two").read_text()
    text = (tmp_path / "two" / "report.md").read_text()
    assert '<td data-label="Embedding">64 px</td>' in page
    assert "| embedding |" in text and "| 64 px |" in text
    assert re.search(r">Fingerprint</th>", page) and re.search(r">Cache \(MB\)</th>", page)
    assert not re.search(r">Seed</th>", page)


@pytest.mark.usefixtures("undrawn")
def test_balanced_accuracy_has_a_column_where_it_is_not_accuracy(tmp_path: Path) -> None:
    for name, labels, column in (
        ("equal", small_group.LABELS, False),
        ("unequal", small_group.LABELS[:199], True),
    ):
        page = write(build([small_group.run("ridge", range(150), labels=labels)]), tmp_path / name)
        for text in (page.read_text(), page.with_name("report.md").read_text()):
            assert ("Balanced accuracy is accuracy: every class has 50 test images" in text) is not column
            assert bool(re.search(r"balanced accuracy( \(95%\) \||</th>)", text, re.I)) is column


def test_a_row_links_to_the_section_of_its_head_with_curves_report_and_matrix(folder: Path) -> None:
    """One click away, and named on top of the page."""
    page = (folder / "index.html").read_text()
    document = json.loads((folder / "report.json").read_text())
    (group,) = document["groups"]
    for entry in group["entries"]:
        assert f'<th scope="row"><a href="#run-{entry["id"]}">{entry["name"]}</a></th>' in page
        assert page.count(f'id="run-{entry["id"]}"') == 1
    dense = next(entry for entry in group["entries"] if entry["head"] == "dense")
    section = page.split(f'id="run-{dense["id"]}"')[1].split("<summary>dense")[0]
    for title, kinds in (
        ("Accuracy and loss by epoch", ("accuracy", "loss")),
        ("Confusion matrix", ("confusion",)),
    ):
        behind = section.split(f"<h4>{title}</h4>")[1]
        assert all(f'id="{kind}-{dense["id"]}-figure_1"' in behind for kind in kinds)
    assert f'<pre tabindex="0">{html.escape(dense["text"], quote=False)[:20]}' in section
    top = page.split("<table")[0]
    assert f'Accuracy and loss by epoch: <a href="#run-{dense["id"]}">' in top
    assert "Classification reports and confusion matrices: <a " in top


def test_the_picture_stands_between_the_answer_and_the_table(folder: Path) -> None:
    page = (folder / "index.html").read_text()
    places = [page.index(part) for part in ('class="answer"', 'id="comparison-0-figure_1"', "<table")]
    assert places == sorted(places)


def test_figures_on_the_page_take_its_colours_and_have_no_ground(folder: Path) -> None:
    """White remains on dark cells of heat maps alone; the files keep their white ground."""
    page = (folder / "index.html").read_text()
    assert "currentColor" in page
    assert not re.search(r'(fill|stroke): (#000000|#0072b2)|<path [^>]*fill: #ffffff"', page)
    assert 'style="fill: #ffffff"' in (folder / "figures" / "comparison-0.svg").read_text()


@pytest.mark.usefixtures("undrawn")
def test_one_of_anything_is_singular(tmp_path: Path) -> None:
    page = write(build([small_group.run("ridge", range(150)), small_group.run("lda", range(120))]), tmp_path)
    text = Page(page.read_text()).text
    assert "1 comparison on the same images" in text
    assert not re.search(r"\b1 (comparisons|images|runs|classes|times|values|scores)\b", text)


@pytest.mark.usefixtures("undrawn")
def test_markdown_tables_have_as_many_cells_as_columns(folder: Path, tmp_path: Path) -> None:
    ridge = small_group.run("ridge", range(150))
    found = small_group.evaluated(ridge)
    wide = write(
        build([ridge, small_group.run("lda", range(9))], ReportContext(evaluations=[found])), tmp_path
    )
    for path in (folder / "report.md", wide.with_name("report.md")):
        columns = 0
        for line in path.read_text().splitlines():
            cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
            assert cells in (columns, 0) or columns == 0, line
            columns = cells


def test_a_pipe_in_the_place_of_a_page_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"state": "s", "sha256": {"index.html": EMPTY}}))
    os.mkfifo(tmp_path / "index.html")
    assert current(tmp_path, "s") is None


@pytest.mark.parametrize(
    "manifest",
    [
        "[" * 100_000,
        "null",
        '{"state": "s", "sha256": {}}',
        '{"state": "s", "sha256": {"index.html": 1}}',
        json.dumps({"state": "s", "sha256": {"index.html": EMPTY, "../other": EMPTY}}),
        json.dumps({"state": "s", "sha256": {"index.html": EMPTY, "/dev/null": EMPTY}}),
        json.dumps({"state": "s", "sha256": {"index.html": EMPTY, "\0": EMPTY}}),
        json.dumps({"state": "t", "sha256": {"index.html": EMPTY}}),
    ],
)
def test_a_manifest_that_is_none_or_leads_elsewhere_is_of_no_page(tmp_path: Path, manifest: str) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    for path in (folder / "index.html", tmp_path / "other"):
        path.write_bytes(b"")
    (folder / "manifest.json").write_text(json.dumps({"state": "s", "sha256": {"index.html": EMPTY}}))
    assert current(folder, "s") == folder / "index.html"
    (folder / "manifest.json").write_text(manifest)
    assert current(folder, "s") is None


def test_a_class_whose_name_no_font_has_is_drawn_without_a_warning(tmp_path: Path) -> None:
    """pytest makes an error of Matplotlib's warning, which names neither the class nor the figure."""
    names = ("ant", "bee", "\u4f8b\u5b50", "dog")
    page = write(build([small_group.run("ridge", range(80), class_names=names)]), tmp_path)
    assert names[2] in page.read_text(encoding="utf-8")
