"""A trained head on other labelled images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.runs.collection import load_all
from reports.evaluation import evaluation, newcombe
from tests.conftest import Make, Project
from tests.small_group import IMAGES, LABELS, probabilities, run


@pytest.fixture
def trained(project: Project) -> Project:
    project("features")
    project("train", "--head", "logistic")
    return project


def scored(project: Project, images: Path, *more: str) -> dict[str, Any]:
    code, out, err = project("evaluate", "--dataset", str(images), "--json", *more)
    assert code == 0, err
    return dict(json.loads(out))


def test_its_own_test_split_gives_its_own_numbers_and_is_one_more_look(trained: Project) -> None:
    found = scored(trained, trained.images)
    (own,) = load_all(trained.out / "runs")
    assert found["test_digest"] == own.test_digest
    assert found["accuracy"] == found["own_test"]["accuracy"]
    assert found["difference"]["method"] == "paired"
    assert (found["difference"]["value"], found["difference"]["p"]) == (0, 1)
    assert found["calibration"]["log_loss"] == pytest.approx(found["own_test"]["calibration"]["log_loss"])
    assert found["looks"] == 2
    (path,) = (trained.out / "evaluations").iterdir()
    assert json.loads(path.read_text()) == found
    assert path.name == f"{own.folder}--pets-{own.test_digest[:12]}.json"


def test_a_folder_of_classes_alone_is_scored_whole_and_classes_are_matched_by_name(
    trained: Project, make_folder: Make
) -> None:
    found = scored(trained, make_folder(7, ("dog", "fox"), "others"))
    assert found["images"] == 7
    assert found["unknown_classes"] == {"fox": 7}
    assert found["absent_classes"] == ["cat"]
    cat, dog = found["per_class"]
    assert (cat["recall"], cat["support"], dog["support"]) == (None, 0, 7)
    assert found["own_test"]["images"] == 6, "of the dogs alone"
    assert found["difference"]["method"] == "independent"
    _, out, _ = trained("evaluate", "--dataset", str(trained.out.parent / "others"))
    assert "all images, as they have no test split; 7 images" in out
    assert "does not know: fox (7)" in out
    assert "looks       2 at these images" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "csv"), "FORMAT=csv: expected one of table, json"),
        (("--dataset", "no/such"), "unknown dataset 'no/such'"),
        (("--dataset", "digits"), "digits has none of the classes that"),
        (("--run", "nothing"), "no run of that name"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(
    trained: Project, arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = trained("evaluate", *arguments)
    assert (code, out) == (2, "")
    assert message in err.strip().splitlines()[-1]
    assert not (trained.out / "evaluations").exists()


def test_the_numbers_by_hand() -> None:
    """The run has 150 of 200 right; here 40 of 50 are, and no image is of the last class."""
    ridge = run("ridge", range(150))
    labels = np.arange(50) % 3
    found = evaluation(ridge, labels, probabilities(np.where(np.arange(50) < 40, labels, 3)))
    assert found["accuracy"]["value"] == pytest.approx(0.8)
    own = np.flatnonzero(LABELS < 3)
    assert found["own_test"]["images"] == len(own) == 150
    right = (own < 150).sum() / 150
    assert found["difference"]["value"] == pytest.approx(0.8 - right)
    assert [row["recall"] for row in found["per_class"]] == pytest.approx([14 / 17, 13 / 17, 13 / 16, None])
    assert [row["precision"] for row in found["per_class"]] == [1, 1, 1, 0]
    again = evaluation(ridge, LABELS, probabilities(LABELS), same_images=True)["difference"]
    assert (again["here_only"], again["there_only"]) == (IMAGES - 150, 0)
    assert again["p"] == pytest.approx(2 * 0.5**50)


def test_the_interval_of_two_independent_samples_is_the_published_one() -> None:
    """Newcombe 1998, table II, example (a), method 10: 56/70 against 48/80."""
    assert newcombe(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)
