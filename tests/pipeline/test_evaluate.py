"""A trained head on other labelled images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock, Timeout
from PIL import Image

from features.cache.embeddings import Embeddings
from features.datasets.folder import Folder
from models.runs import looks
from models.runs.changes import LOCK
from models.runs.collection import load_all
from reports.evaluation import evaluation, newcombe
from tests.conftest import Make, Project, picture
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


def test_its_look_is_noted_under_the_lock_of_the_runs(
    trained: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = looks.append

    def noted(root: Path, line: bytes) -> None:
        with pytest.raises(Timeout), FileLock(root / LOCK, timeout=0):
            pass
        append(root, line)

    monkeypatch.setattr(looks, "append", noted)
    assert scored(trained, trained.images)["looks"] == 2


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


def test_the_same_images_at_another_size_and_compression_are_compared_image_by_image(
    trained: Project, tmp_path: Path
) -> None:
    again = tmp_path / "smaller"
    for path in trained.images.rglob("*.*"):
        there = again / path.relative_to(trained.images)
        there.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((32, 32)).save(there, quality=60)
    found = scored(trained, again)
    (own,) = load_all(trained.out / "runs")
    assert found["test_digest"] != own.test_digest, "a look at other images"
    assert found["looks"] == 1
    assert found["difference"]["method"] == "paired"
    assert found["images"] == found["own_test"]["images"] == 12


def test_limit_takes_a_part_of_the_test_split_which_is_compared_with_itself(trained: Project) -> None:
    found = scored(trained, trained.images, "--limit", "10")
    assert found["images"] == found["own_test"]["images"] == 10
    assert found["difference"]["method"] == "paired"
    assert (found["difference"]["value"], found["dataset"]["limit"]) == (0, 10)


def test_limit_is_of_all_images_where_all_are_scored(trained: Project, make_folder: Make) -> None:
    others = make_folder(30, ("cat", "dog"), "others")
    assert scored(trained, others)["images"] == 60
    found = scored(trained, others, "--limit", "20")
    assert found["images"] == 20
    assert [row["support"] for row in found["per_class"]] == [10, 10], "stratified"
    code, _, err = trained("evaluate", "--dataset", str(others), "--limit", "1")
    assert code == 2
    assert "LIMIT=1 is too small: each of the 2 classes of others needs an image; raise LIMIT" in err


def test_every_image_of_a_flat_folder_meets_its_own_label(trained: Project, make_folder: Make) -> None:
    """The head has them all right; then each dog is put among the cats as well."""
    others = make_folder(8, ("cat", "dog"), "others")
    for path in (others / "cat").iterdir():
        path.with_name(f"x{path.name}").write_bytes((others / "dog" / path.name).read_bytes())
    found = scored(trained, others, "--batch", "3")
    recall = {row["class"]: row["recall"] for row in found["per_class"]}
    assert found["images"] == 24
    assert recall == {"cat": 0.5, "dog": 1}


def test_a_vote_is_scored_by_its_members(trained: Project, make_folder: Make) -> None:
    trained("train", "--head", "centroid")
    trained("train", "--head", "vote")
    vote = next(run for run in load_all(trained.out / "runs") if run.members)
    found = scored(trained, trained.images, "--run", vote.folder)
    assert found["accuracy"] == found["own_test"]["accuracy"]
    own = found["own_test"]["calibration"]["log_loss"]
    assert found["calibration"]["log_loss"] == pytest.approx(own)
    assert found["run"] == vote.folder


class TestImagesOfTheTrainingSplit:
    @pytest.fixture
    def flat(self, make_folder: Make, project: Project) -> Project:
        """Trained on a folder without a test split, to which images were added since."""
        images = make_folder(20, ("cat", "dog"), "flat")
        project.images = images
        project.common[1] = str(images)
        assert project("features")[0] == 0
        assert project("train", "--head", "logistic")[0] == 0
        for name in ("cat", "dog"):
            for number in range(20):
                picture(np.random.default_rng(number), 0).save(images / name / f"a{number}.png")
        return project

    def test_where_the_folder_has_changed_they_are_counted_by_name(self, flat: Project) -> None:
        (own,) = load_all(flat.out / "runs")
        cache = Embeddings(flat.cache)
        found = scored(flat, flat.images, "--run", own.folder)
        assert found["scored"] == "the held-out fifth, as the run was trained on these images"
        now = Folder(flat.images).ids("test")
        seen = len(set(now) & set(cache.ids("train")))
        assert 1 < seen < len(now) == found["images"]
        assert found["warnings"] == [
            f"{seen} of {len(now)} images scored have the name of an image that the run was trained on: "
            "if it is the same image, the accuracy here is too high"
        ]
        _, out, err = flat("evaluate", "--run", own.folder)
        assert f"warning     {seen} of" in out
        assert f"note: {seen} of" in err
        assert flat("report")[0] == 0
        assert f"flat: {seen} of" in (flat.out / "report" / "index.html").read_text()

    def test_of_a_copy_of_it_the_test_split_alone_is_scored_whatever_the_limit(
        self, make_folder: Make, project: Project
    ) -> None:
        project.images = make_folder(40, ("cat", "dog"), "flat")
        project.common[1] = str(project.images)
        project("features")
        project("train", "--head", "logistic")
        copy = project.images.with_name("copy")
        for path in project.images.rglob("*.*"):
            there = copy / path.relative_to(project.images)
            there.parent.mkdir(parents=True, exist_ok=True)
            Image.open(path).resize((32, 32)).save(there)
        (own,) = load_all(project.out / "runs")
        for more, images in (((), 16), (("--limit", "10"), 10)):
            found = scored(project, copy, "--run", own.folder, *more)
            assert (found["images"], found["warnings"]) == (images, []), more
            assert found["scored"].startswith("the held-out fifth, as its files are named as")

    def test_without_the_embeddings_it_is_a_possibility(self, flat: Project) -> None:
        flat.cache.unlink()
        (own,) = load_all(flat.out / "runs")
        (warning,) = scored(flat, flat.images, "--run", own.folder)["warnings"]
        assert warning.startswith("the folder has changed since the run was trained on it")

    def test_of_a_folder_that_is_what_it_was_nothing_is_said(self, trained: Project) -> None:
        assert scored(trained, trained.images)["warnings"] == []
        trained.cache.unlink()
        assert scored(trained, trained.images)["warnings"] == []


def test_the_report_shows_it_once_it_is_there_and_until_the_run_is_another(
    trained: Project, make_folder: Make
) -> None:
    def shown() -> list[dict[str, Any]]:
        code, _, err = trained("report")
        assert code == 0, err
        (group,) = json.loads((trained.out / "report" / "report.json").read_text())["groups"]
        return list(group["evaluations"])

    assert shown() == []
    found = scored(trained, make_folder(7, ("cat", "dog"), "others"))
    (each,) = shown()
    assert (each["accuracy"], each["on"], each["looks"]) == (found["accuracy"], "others", 1)
    assert each["sentence"] in (trained.out / "report" / "report.md").read_text()
    assert "nothing new" in trained("report")[2]

    (path,) = (trained.out / "evaluations").iterdir()
    whole = path.read_text()
    path.write_text(whole.replace('"images": 14', '"images": 15'))
    assert shown() == []
    assert "passed over" in trained("report")[2]
    path.write_text(whole)
    assert shown() == [each]


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
    again = evaluation(ridge, LABELS, probabilities(LABELS), np.arange(IMAGES))["difference"]
    assert (again["here_only"], again["there_only"]) == (IMAGES - 150, 0)
    assert again["p"] == pytest.approx(2 * 0.5**50)


def test_a_part_of_the_own_test_images_is_compared_with_itself_alone() -> None:
    """Of 20 images the run has the first 10 right; here all but one of those are, and one of the others."""
    ridge, rows = run("ridge", range(150)), np.arange(140, 160)
    says = np.where(np.isin(rows, [*range(141, 150), 155]), LABELS[rows], (LABELS[rows] + 1) % 4)
    found = evaluation(ridge, LABELS[rows], probabilities(says), rows)
    assert found["images"] == found["own_test"]["images"] == 20
    assert (found["accuracy"]["value"], found["own_test"]["accuracy"]["value"]) == (0.5, 0.5)
    assert (found["difference"]["here_only"], found["difference"]["there_only"]) == (1, 1)


def test_the_interval_of_two_independent_samples_is_the_published_one() -> None:
    """Newcombe 1998, table II, example (a), method 10: 56/70 against 48/80."""
    assert newcombe(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)
