"""The table for a paper: it compiles whatever data is called, and its numbers are those of report.json."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from models.runs.run import Run
from reports.context.gathering import ReportContext
from reports.page.latex import comment, latex
from reports.page.render import write
from reports.report import build
from tests.small_group import DATASET, DIGEST, LABELS, SPEC, run

NASTY = "50%_of & #1\n\\end{tabular} {~^}"


def seeds() -> list[Run]:
    return [run("dense", range(150 + 7 * seed), seed) for seed in range(3)]


@pytest.fixture
def runs() -> list[Run]:
    """One embedding with three seeds of ``dense``, another whose names are as hard as they come."""
    other = {"spec": SPEC | {"weights": f"custom:{NASTY}"}, "fingerprint": "a" * 64, "layers": (NASTY,)}
    nasty = run("lda", range(120), dataset=DATASET | {"name": NASTY}, **other)
    nasty.command = f"make train HEAD=lda DATASET='{NASTY}'"
    nasty.warnings = [f"the solver stopped at {NASTY}"]
    return [*seeds(), run("ridge", range(140)), nasty]


def written(runs: list[Run], folder: Path, **context: Any) -> tuple[str, dict[str, Any]]:
    """The table and the JSON beside it."""
    write(build(runs, ReportContext(**context)), folder)
    return (folder / "table.tex").read_text(), json.loads((folder / "report.json").read_text())


def typeset(table: str) -> list[str]:
    """The lines that LaTeX reads."""
    return [line for line in table.splitlines() if line and not line.startswith("%")]


def cells(table: str) -> dict[str, list[str]]:
    """The rows of the one table by their first cell, its titles too."""
    split = [re.split(r"(?<!\\) & ", line.removesuffix(r" \\")) for line in typeset(table) if " & " in line]
    return {row[0]: row[1:] for row in split}


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        (r"a\b", r"a\textbackslash{}b"),
        ("50% & $3 #1 a_b {c}", r"50\% \& \$3 \#1 a\_b \{c\}"),
        ("~^`", r"\textasciitilde{}\textasciicircum{}\textasciigrave{}"),
        ('<a>|"', r"\textless{}a\textgreater{}\textbar{}\char34{}"),
        ("a--b ''c'' x-y", r"a-{}-b '{}'c'{}' x-y"),
        ("block4@2 + bloc\u00e9", "block4@2 + bloc\u00e9"),
        ("one\r\ntwo\x00\u2028three", "one two three"),
        (1.5, "1.5"),
    ],
)
def test_text_is_printed_as_it_is(text: object, printed: str) -> None:
    assert latex(text) == printed


def test_nothing_in_a_comment_ends_its_line() -> None:
    ends = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
    assert comment(f"make train{ends}\\end{{document}}") == r"make train \end{document}"


def test_it_is_balanced_whatever_data_is_called(runs: list[Run], tmp_path: Path) -> None:
    table, _ = written(runs, tmp_path)
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", "\n".join(typeset(table))):
        depth += 1 if brace == "{" else -1
        assert depth in (0, 1, 2)
    assert depth == 0
    begin, *middle, end = typeset(table)
    columns = begin.removeprefix(r"\begin{tabular}{@{}").removesuffix("@{}}")
    assert set(columns) <= set("lr")
    assert end == r"\end{tabular}"
    assert [middle[place] for place in (0, 2, -1)] == [r"\toprule", r"\midrule", r"\bottomrule"]
    rows = [middle[1], *middle[3:-1]]
    assert len(rows) == 1 + 3, "titles, and a row for each configuration"
    for row in rows:
        assert row.endswith(r" \\")
        assert len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1


def test_its_numbers_are_those_of_the_json(runs: list[Run], tmp_path: Path) -> None:
    table, document = written(runs, tmp_path)
    (group,) = document["groups"]
    found = cells(table)
    assert found["Head"] == ["Embedding", "Seeds", "Accuracy", "Macro F1", "ECE", "Log loss"]
    for entry in group["entries"]:
        if entry["head"] != "dense":
            _, count, *numbers = found[entry["head"]]
            intervals = [entry["accuracy"], entry["macro_f1"]]
            assert numbers[:2] == [f"{e['value']:.4f} ({e['low']:.4f}--{e['high']:.4f})" for e in intervals]
            assert numbers[2:] == [
                f"{value:.3f}" for value in (entry["scaled"]["ece"]["value"], entry["scaled"]["log_loss"])
            ]
            assert count == "1"
    (of_seeds,) = group["seeds"]
    metrics = [
        of_seeds,
        *(of_seeds["metrics"][name] for name in ("macro_f1", "ece_scaled", "log_loss_scaled")),
    ]
    digits = (4, 4, 3, 3)
    assert found["dense"][1:] == [
        "3",
        *(
            rf"{each['mean']:.{places}f} $\pm$ {each['deviation']:.{places}f}"
            for each, places in zip(metrics, digits, strict=True)
        ),
    ]


def test_over_seeds_every_number_is_mean_and_sample_deviation(tmp_path: Path) -> None:
    _, document = written(seeds(), tmp_path)
    (group,) = document["groups"]
    (of_seeds,) = group["seeds"]
    values = {
        "balanced_accuracy": [entry["balanced_accuracy"]["value"] for entry in group["entries"]],
        "macro_f1": [entry["macro_f1"]["value"] for entry in group["entries"]],
        "ece_scaled": [entry["scaled"]["ece"]["value"] for entry in group["entries"]],
        "log_loss_scaled": [entry["scaled"]["log_loss"] for entry in group["entries"]],
    }
    assert of_seeds["metrics"] == {
        name: pytest.approx({"mean": mean(each), "deviation": stdev(each)}) for name, each in values.items()
    }
    assert all(each["deviation"] > 0 for each in of_seeds["metrics"].values())


def test_comments_say_what_each_number_is_of(runs: list[Run], tmp_path: Path) -> None:
    table, document = written(runs, tmp_path, looks={DIGEST: 7})
    comments = [line for line in table.splitlines() if line.startswith("%")]
    for entry in document["groups"][0]["entries"]:
        (line,) = (each for each in comments if each.startswith(f"% {comment(entry['name'])}: "))
        assert f"embeddings {entry['fingerprint']}: {comment(entry['command'])}" in line
    assert r"%   Note: the solver stopped at 50%_of & #1 \end{tabular} {~^}." in comments
    assert "% This test split has been predicted 7 times so far." in comments


def test_equal_heads_are_told_apart(tmp_path: Path) -> None:
    table, _ = written(
        [run("ridge", range(150)), run("ridge", range(140), settings={"alpha": 3.0})], tmp_path
    )
    assert list(cells(table)) == ["Head", "ridge", "ridge (alpha 3.0)"]


def test_a_small_run_never_poses_as_a_full_one(tmp_path: Path) -> None:
    """It is said where the paper shows it, across all columns."""
    small = run("ridge", range(99), dataset=DATASET | {"limit": 500}, labels=LABELS[:199])
    table, _ = written([small], tmp_path)
    assert cells(table)["Head"] == ["Accuracy", "Balanced accuracy", "Macro F1", "ECE", "Log loss"]
    assert r"\multicolumn{6}{@{}l@{}}{A small run: at most 500 images of each split (LIMIT=500).} \\" in table
    full, _ = written([run("ridge", range(99))], tmp_path)
    assert "small run" not in full


def test_each_test_split_has_a_table_of_its_own(tmp_path: Path) -> None:
    table, _ = written([run("ridge", range(99)), run("lda", range(99), test_digest="other")], tmp_path)
    assert typeset(table).count(r"\end{tabular}") == 2
