"""A learning curve is shown as it was measured, or not at all."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.cache.embeddings import canonical, canonical_digest
from features.errors import UserError
from models.curve import Curve, _digest, load, path_of
from models.runs.run import Run
from tests.small_group import run as make

POINTS = [
    {"shots": 1, "images": 4, "accuracy": [0.5, 0.25]},
    {"shots": 15.0, "images": 60, "accuracy": [0.75]},
]
ROWS = {"1.0": np.arange(4), "1.1": np.arange(4, 8)}
RUN = make("ridge", range(150))
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Curve(RUN.folder, POINTS, ROWS, RUN.parameters).save(tmp_path / "runs")
    return tmp_path / "runs"


def rewrite(root: Path, change: Change, prove: bool, rows: dict[str, Any] | None = None) -> None:
    """Change what the file says; with ``prove`` its digest is right."""
    path = path_of(root, RUN.folder)
    with np.load(path) as archive:
        kept = dict(archive)
    about = json.loads(str(kept.pop("about")))
    whole = about.pop("whole")
    change(about)
    about["whole"] = canonical_digest(about) if prove else whole
    buffer = io.BytesIO()
    np.savez_compressed(buffer, about=np.array(canonical(about)), **kept | (rows or {}))
    path.write_bytes(buffer.getvalue())


def refused(root: Path, run: Run = RUN) -> str:
    with pytest.raises(UserError, match=r"is damaged .*; remove it and grow the curve again") as caught:
        load(root, run)
    return str(caught.value)


def test_what_is_written_is_read(root: Path) -> None:
    found = load(root, RUN)
    assert found is not None
    assert (found.points, found.parameters) == (POINTS, RUN.parameters)
    assert all(np.array_equal(found.rows[name], rows) for name, rows in ROWS.items())


def test_without_a_file_there_is_none(root: Path) -> None:
    assert load(root, make("lda", range(9))) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about["points"][0].update(accuracy=[0.5, 0.26]),
        lambda about: about["points"][1].update(images=61),
        lambda about: about["points"][1].update(shots=16.0),
        lambda about: about.update(run="another"),
        lambda about: about.update(parameters={"alpha": 2.0}),
    ],
)
def test_a_changed_number_is_noticed(root: Path, change: Change) -> None:
    rewrite(root, change, prove=False)
    assert "its numbers have another digest" in refused(root)


@pytest.mark.parametrize("rows", [np.arange(1, 5), np.arange(4.0)], ids=["others", "of another type"])
def test_changed_draws_are_noticed(root: Path, rows: Any) -> None:
    rewrite(root, lambda about: None, prove=True, rows={"1.0": rows})
    assert "the draw 1.0 has another digest" in refused(root)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda about: about["points"][0].update(accuracy=[0.5, 1.5]), r"points[0].accuracy"),
        (lambda about: about["points"][0].update(accuracy="high"), r"points[0].accuracy"),
        (lambda about: about["points"][0].update(accuracy=[]), r"points[0].accuracy"),
        (lambda about: about["points"][0].update(accuracy=[float("nan")]), r"points[0].accuracy"),
        (lambda about: about["points"][0].update(accuracy=[0.5]), "its draws are not those of its points"),
        (lambda about: about["points"][0].update(shots="1"), r"points[0].shots"),
        (lambda about: about["points"][0].pop("images"), r"points[0].images"),
        (lambda about: about.update(points=None), "points"),
        (lambda about: about.update(parameters=[]), "parameters"),
        (lambda about: about.update(more=1), "more"),
        (lambda about: about["sha256"].update({"1.0": 7}), "sha256"),
        (lambda about: about.update(run="another"), "it belongs to another"),
    ],
)
def test_what_cannot_be_a_curve_is_refused_though_its_digest_is_right(
    root: Path, change: Change, place: str
) -> None:
    rewrite(root, change, prove=True)
    assert place in refused(root)


@pytest.mark.parametrize("about", ["[" * 100_000, "null", "{", "7"])
def test_what_is_no_curve_is_refused(root: Path, about: str) -> None:
    np.savez(path_of(root, RUN.folder), about=np.array(about))
    refused(root)


def test_one_of_an_earlier_version_is_read_and_held_to_its_ranges(root: Path) -> None:
    """``tests/test_earlier.py`` has a real one; this is what is still refused in it."""

    def earlier(accuracy: float) -> None:
        digests = {name: _digest(rows) for name, rows in ROWS.items()}
        points = [POINTS[0] | {"accuracy": [0.5, accuracy]}]
        about = {"run": RUN.folder, "parameters": RUN.parameters, "points": points, "sha256": digests}
        np.savez_compressed(path_of(root, RUN.folder), about=np.array(canonical(about)), **ROWS)

    earlier(0.25)
    found = load(root, RUN)
    assert found is not None
    assert found.points == POINTS[:1]
    earlier(2.5)
    refused(root)


def test_that_of_the_run_that_this_one_replaced_is_no_longer_shown(root: Path) -> None:
    again = make("ridge", range(150))
    again.parameters = {"alpha": 3.0}
    assert load(root, again) is None
