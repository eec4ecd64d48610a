"""The last lines of training: a table of its runs, and the next command."""

from __future__ import annotations

import pytest

from pipeline.options import Options
from pipeline.summary import HEADER, following, table
from tests.conftest import Project


def test_columns_are_aligned_and_seconds_end_together() -> None:
    head, first, second = table(
        [
            ("ridge", "0", "0.9861", "0.9803 (0.9599 to 0.9904)", "8.4", "digits-ridge-seed0-0"),
            ("logistic", "11", "0.9931", "0.9859 (0.9675 to 0.9940)", "1234.5", "digits-logistic-seed11-1"),
        ]
    )
    for name in ("seed", "validation", "test", "run"):
        at = head.index(name)
        assert first[at - 2 : at] == second[at - 2 : at] == "  "
        assert first[at] != " "
        assert second[at] != " "
    end = head.index("seconds") + len("seconds")
    assert (first[end - 3 : end], second[end - 6 : end]) == ("8.4", "1234.5")


def test_a_table_without_runs_is_its_header() -> None:
    assert table([]) == ["  ".join(HEADER)]


@pytest.mark.parametrize(
    ("said", "stage", "command"),
    [
        ({}, "report", "make report"),
        ({"dataset": "digits", "head": "knn", "seeds": 3, "out": "a b"}, "report", "make report OUT='a b'"),
        ({"dataset": "digits", "image_size": 64}, "train", "make train DATASET=digits IMAGE_SIZE=64"),
        ({"batch": 8, "executor": "ray", "address": "h:1", "out": "o"}, "train", "make train OUT=o"),
    ],
)
def test_the_next_command_says_what_it_reads(said: dict[str, object], stage: str, command: str) -> None:
    assert following(Options(**said, said=tuple(said)), stage) == command  # type: ignore[arg-type]


@pytest.mark.slow
def test_training_ends_with_a_row_for_each_run_new_or_found(project: Project) -> None:
    _, _, err = project("features")
    assert err.splitlines()[-1].startswith("next: make train DATASET=")
    assert err.splitlines()[-1].endswith(" HEAD=logistic")
    for _ in ("trained", "found"):
        _, out, err = project("train", "--head", "centroid")
        head, row, _, following_line = err.splitlines()[-4:]
        assert head.split()[:3] == ["head", "seed", "validation"]
        assert row.split()[0] == "centroid"
        assert row.split()[-1] == out.strip().rpartition("/")[2]
        assert following_line == f"next: make report OUT={project.out}"
