"""Heads that are scikit-learn's or another package's, by the command line, from training to the report."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pytest
import skops.io

from features import budget
from features.cache.embeddings import Embeddings
from models.runs.collection import load_all
from models.runs.saving import load
from tests.conftest import Project

MINE = """
from sklearn.naive_bayes import GaussianNB

class Mine(GaussianNB):
    pass
"""


@pytest.fixture
def trained(project: Project) -> Project:
    project("features")
    return project


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "package_of_mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "package_of_mine:Mine"


def test_from_training_to_export(trained: Project, tmp_path: Path) -> None:
    forest = ("--head", "RandomForestClassifier", "--set", "n_estimators=5")
    code, out, err = trained("train", *forest)
    assert code == 0, err
    run = load(Path(out.strip()), with_head=True)
    assert run.parameters["n_estimators"] == 5
    assert "already trained" in trained("train", *forest)[2]

    code, out, err = trained("predict", *forest, "--image", str(trained.images / "test" / "cat"), "--csv")
    assert code == 0, err
    assert len(out.strip().splitlines()) == 1 + 6
    readers = {".joblib": joblib.load, ".skops": partial(skops.io.load, trusted=["sklearn.tree._tree.Tree"])}
    for suffix, read in readers.items():
        code, out, err = trained("export", *forest, "--to", str(tmp_path / f"head{suffix}"))
        assert code == 0, err
        assert ("share it with care" in err) == (suffix == ".joblib")
        X = Embeddings(trained.cache).matrix("test", run.layers)
        assert np.array_equal(read(tmp_path / f"head{suffix}").predict(X), run.test_proba.argmax(axis=1))
    code, _, err = trained("export", *forest, "--to", str(tmp_path / "head.keras"))
    assert code == 2
    assert "expected a name that ends in .joblib or .skops for the head RandomForestClassifier" in err


def test_a_grid_of_ones_own_is_part_of_the_run_and_of_its_command(trained: Project) -> None:
    given = ("--head", "LogisticRegression", "--grid", "C=0.1,0.001", "--scale", "standard")
    code, out, err = trained("train", *given)
    assert code == 0, err
    run = load(Path(out.strip()))
    assert run.grid == {"C": [0.001, 0.1]}
    assert run.asked["scale"] == "standard"
    assert run.command.endswith("GRID=C=0.1,0.001 SCALE=standard HEAD=LogisticRegression")
    code, _, err = trained("train", "--head", "logistic", "--grid", "C=0.1,0.001")
    assert code == 0, err
    (ours,) = (run for run in load_all(trained.out / "runs") if run.head == "logistic")
    assert ours.grid == {"C": [0.001, 0.1]}


def test_another_packages_class_runs_is_kept_and_is_read_only_where_that_is_said(
    trained: Project, mine: str
) -> None:
    given = ("--head", mine)
    look = (*given, "--image", str(trained.images / "test" / "cat"))
    code, out, err = trained("train", *given)
    assert code == 0, err
    assert "runs the code of the module package_of_mine" in err
    assert "only the predictions are saved" in err
    code, _, err = trained("predict", *look)
    assert code == 2
    assert "train it again with TRUST=1 and FORCE=1" in err.strip().splitlines()[-1]
    code, out, err = trained("train", *given, "--trust", "--force")
    assert code == 0, err
    code, _, err = trained("predict", *look)
    assert code == 2
    assert "runs code when loaded; TRUST=1 loads it" in err.strip().splitlines()[-1]
    code, out, err = trained("predict", *look, "--trust")
    assert code == 0, err
    assert len(out.splitlines()) == 1 + 6


def test_the_report_and_a_vote_take_them_with_ours(trained: Project, mine: str) -> None:
    for name in ("ridge", "GaussianNB", mine):
        assert trained("train", "--head", name, "--trust")[0] == 0
    code, _, err = trained("train", "--head", "vote")
    assert code == 0, err
    code, out, err = trained("report")
    assert code == 0, err
    (group,) = json.loads((Path(out.strip()).parent / "report.json").read_text())["groups"]
    about = {entry["head"]: entry["about"] for entry in group["entries"]}
    assert about.keys() == {"ridge", "GaussianNB", mine, "vote"}
    assert about["GaussianNB"] == "scikit-learn's: Gaussian Naive Bayes (GaussianNB)"
    assert about[mine] == "a classifier of another package"


def test_a_learning_curve(trained: Project) -> None:
    trained("train", "--head", "GaussianNB")
    code, out, err = trained("curve", "--head", "GaussianNB")
    assert code == 0, err
    assert Path(out.strip()).is_file()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ("--head", "LogisticRegresion"),
            "'LogisticRegresion' (did you mean LogisticRegression?): expected one",
        ),
        (
            ("--head", "VotingClassifier"),
            "cannot be a head: it needs an estimator to be built with",
        ),
        (("--head", "nowhere:Mine"), "HEAD=nowhere:Mine: ModuleNotFoundError: No module named 'nowhere'"),
        (("--head", "ridge", "--scale", "standard"), "SET: ridge has no parameter 'scale'"),
        (
            ("--head", "ridge", "--grid", "alpha"),
            "GRID=alpha: expected a parameter and its values, as in GRID=",
        ),
        (("--head", "ridge", "--grid", "alpha=1,-1"), "SET: alpha=-1"),
        (("--head", "all", "--grid", "alpha=1"), "GRID=alpha=1: parameters of one head, got HEAD=all"),
        (("--head", "SVC", "--set", "C=-1"), "SET: SVC: The 'C' parameter of SVC must be a float"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(trained: Project, given: tuple[str, ...], message: str) -> None:
    code, _, err = trained("train", *given)
    assert code == 2
    assert message in err.strip().splitlines()[-1]


def test_what_does_not_fit_into_memory_is_refused_before_it_is_tried(
    trained: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "available", lambda: 1000)
    code, _, err = trained("train", "--head", "LabelSpreading")
    assert code == 2
    line = err.strip().splitlines()[-1]
    assert "the head LabelSpreading needs at least 0.0 GB of memory (40 images x 1,024 values" in line
    assert "+ 1.4 x 40 x 40 pairs of images x 8 bytes)" in line
