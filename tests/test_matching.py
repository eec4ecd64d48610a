"""Which runs a command line means, without a network: by what was said, whatever the files are called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.errors import UserError
from models.runs import Run
from pipeline.matching import the_run, the_runs
from pipeline.options import Options
from tests.test_heads import blobs
from tests.test_selection import Fake, train


@pytest.fixture(scope="module")
def run() -> Run:
    return train(Fake(*blobs(rows=200), train=150))


def options(root: Path, **said: Any) -> Options:
    return Options(out=str(root)).but(**said)


def saved(root: Path, *runs: Run) -> list[Run]:
    for each in runs:
        each.save(root / "runs")
    return list(runs)


def of_limit(run: Run, limit: int | None, right: float) -> Run:
    """The run as of a dataset with this limit, and with such a share of its validation images right."""
    wrong = np.arange(len(run.val_labels)) >= right * len(run.val_labels)
    said = np.where(wrong, (run.val_labels + 1) % 3, run.val_labels)
    dataset, print_ = run.dataset | {"limit": limit}, f"{limit}".rjust(64, "0")
    return replace(run, dataset=dataset, fingerprint=print_, val_proba=np.eye(3)[said])


@pytest.mark.parametrize("limits", [(20, 100), (100, None)])
def test_of_several_limits_the_largest_is_meant_whatever_the_smaller_reached(
    run: Run, tmp_path: Path, limits: tuple[int | None, ...]
) -> None:
    small, large = saved(tmp_path, of_limit(run, limits[0], 1.0), of_limit(run, limits[1], 0.5))
    assert the_run(options(tmp_path)).id == large.id
    assert the_run(options(tmp_path, limit=limits[0])).id == small.id


def test_of_several_datasets_one_must_be_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.matching._digest_of", lambda folder: "e")
    (tmp_path / "other").mkdir()
    elsewhere = {"digest": "e", "source": str(tmp_path / "other"), "name": "other"}
    other = replace(run, dataset=run.dataset | elsewhere, fingerprint="e" * 64)
    saved(tmp_path, run, other)
    with pytest.raises(UserError, match=r"several datasets fit \(DATASET=/.*other, DATASET=fake\)"):
        the_run(options(tmp_path))
    assert the_run(options(tmp_path, dataset=str(tmp_path / "other"))).id == other.id


def test_of_a_folder_that_has_changed_the_present_images_are_meant(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = run.dataset | {"source": str(tmp_path)}
    before, now = (
        replace(run, dataset=dataset | {"digest": digest}, fingerprint=digest * 64) for digest in "ab"
    )
    saved(tmp_path, before, now)
    monkeypatch.setattr("pipeline.matching._digest_of", lambda folder: "b")
    assert the_run(options(tmp_path, dataset=str(tmp_path))).id == now.id


def test_the_one_run_of_a_head_that_draws_nothing_is_that_of_every_seed(run: Run, tmp_path: Path) -> None:
    dense = replace(run, head="dense", seed=3)
    saved(tmp_path, run, dense)
    assert {each.head for each in the_runs(options(tmp_path, seed=3))} == {"logistic", "dense"}
    assert {each.head for each in the_runs(options(tmp_path, seed=4))} == {"logistic"}
