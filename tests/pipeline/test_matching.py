"""Which runs a command line means, without a network: by what was said, whatever the files are called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.errors import UserError
from models.runs.run import Run
from models.runs.saving import save
from pipeline.matching import the_run, the_runs
from pipeline.options import Options
from tests.models.heads.test_heads import blobs
from tests.models.test_selection import Fake, train


@pytest.fixture(scope="module")
def run() -> Run:
    return train(Fake(*blobs(rows=200), train=150))


def options(root: Path, **said: Any) -> Options:
    return Options(out=str(root)).replace(**said)


def saved(root: Path, *runs: Run) -> list[Run]:
    for each in runs:
        save(each, root / "runs")
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


def test_predict_and_export_are_told_which_run_was_chosen_and_why(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two seeds of 1.0 and 0.5 are less in the mean than one run of 0.8, and a vote does not compete."""
    accuracies = {("dense", 0): 0.5, ("dense", 1): 1.0, ("logistic", 0): 0.8}
    seeds = [
        replace(of_limit(run, None, right), head=head, seed=seed)
        for (head, seed), right in accuracies.items()
    ]
    vote = replace(of_limit(run, None, 1.0), head="vote", members={"gone": 1.0})
    saved(tmp_path, *seeds, vote)
    logistic, mean = seeds[-1], (seeds[0].val_accuracy + seeds[1].val_accuracy) / 2
    assert the_run(options(tmp_path)).id == logistic.id
    why = f"validation accuracy {logistic.val_accuracy:.4f}, the best of 2 configurations"
    assert capsys.readouterr().err == f"logistic of {logistic.folder}: {why}\n"
    assert the_run(options(tmp_path, head="dense")).id == seeds[0].id, "the lowest seed, not the best"
    assert f"mean validation accuracy {mean:.4f} over 2 seeds, the only" in capsys.readouterr().err
    assert the_run(options(tmp_path, head="vote")).id == vote.id
    capsys.readouterr()
    assert the_run(options(tmp_path, run="dense-seed1")).id == seeds[1].id
    assert capsys.readouterr().err.endswith("named by RUN=\n")


def test_of_several_datasets_one_must_be_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.matching._digest_of", lambda *_: "e")
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
    monkeypatch.setattr("pipeline.matching._digest_of", lambda *_: "b")
    assert the_run(options(tmp_path, dataset=str(tmp_path))).id == now.id


def test_the_one_run_of_a_head_that_draws_nothing_is_that_of_every_seed(run: Run, tmp_path: Path) -> None:
    dense = replace(run, head="dense", seed=3)
    saved(tmp_path, run, dense)
    assert {each.head for each in the_runs(options(tmp_path, seed=3))} == {"logistic", "dense"}
    assert {each.head for each in the_runs(options(tmp_path, seed=4))} == {"logistic"}
