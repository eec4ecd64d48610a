"""New images through a saved run, and heads that leave for elsewhere."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from numpy.typing import NDArray

from features import budget
from features.cache.embeddings import Embeddings
from features.errors import UserError
from models.heads.registry import HEADS
from models.runs.collection import load_all
from models.runs.export import write
from models.runs.run import Run
from models.runs.saving import load
from pipeline.predict import COLUMNS, _paths, _show, _walk
from tests.conftest import Project
from tests.models.heads.test_heads import blobs
from tests.models.test_selection import Fake, train

pytestmark = pytest.mark.slow


@pytest.fixture
def trained(project: Project) -> Project:
    project("features")
    project("train", "--head", "logistic")
    return project


def test_a_batch_that_cannot_fit_is_refused_before_a_picture_is_read(
    trained: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "available", lambda: 10**9)
    code, out, err = trained("predict", "--image", str(trained.images / "test"), "--batch", "1000000000")
    assert (code, out) == (2, "")
    assert "GB of memory" in err.strip().splitlines()[-1]


def _votes_alone(run: Run, fake: Any) -> NDArray[np.float64]:
    """The shares of the k votes of a ``knn``, without the one more that is spread over all classes."""
    similarities, neighbours = run.estimator.neighbours(fake.matrix("test", ()), run.estimator.k)
    weights = np.exp(similarities.astype(np.float64) / run.estimator.temperature)
    votes = (weights[:, :, None] * np.eye(len(run.estimator.classes_))[run.estimator.codes_[neighbours]]).sum(
        1
    )
    return np.asarray(votes / votes.sum(axis=1, keepdims=True))


def rows(out: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(out)))


def test_a_training_image_is_predicted_as_its_cached_vector_is(real_project: Project) -> None:
    project = real_project
    project("features")
    project("train", "--head", "logistic")
    code, out, err = project("predict", "--image", str(project.images / "train"), "--csv")
    assert code == 0, err
    embeddings = Embeddings(project.cache)
    (run,) = load_all(project.out / "runs")
    head = load(project.out / "runs" / run.folder, with_head=True)
    from models.temperature import scaled

    X = embeddings.matrix("train", run.layers)
    expected = scaled(head.estimator.predict_proba(X), run.temperature)
    by_file = {row["image"]: float(row["probability"]) for row in rows(out)}
    assert len(by_file) == len(X) == 40
    for name, proba in zip(embeddings.ids("train"), expected, strict=True):
        assert by_file[str(project.images / name)] == pytest.approx(proba.max(), abs=1e-4)


def test_the_forms_say_the_same(trained: Project) -> None:
    image = str(sorted((trained.images / "test" / "cat").iterdir())[0])
    _, table, _ = trained("predict", "--image", image)
    _, sheet, _ = trained("predict", "--image", image, "--csv")
    _, lines, _ = trained("predict", "--image", image, "--format", "json")
    (row,), answer = rows(sheet), json.loads(lines)
    assert row["class"] == answer["class"] == table.splitlines()[1].split()[0]
    assert float(row["probability"]) == answer["probability"]
    assert answer["probability"] + answer["runner_up_probability"] == pytest.approx(1)


FORMULAS = ("=1+1", "+1", "-1", "@x", "a\rb", 'a,"b"\n', "plain", "größe")


def _shown(form: str, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """What is printed of predictions with such names."""
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, "utf-8", newline="\n"))
    assert _show(iter([(name, name, 0.1 + 0.2, name, 1e-20) for name in FORMULAS]), form) == 0
    sys.stdout.flush()
    return printed.getvalue()


def test_csv_gives_back_what_was_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    text = _shown("csv", monkeypatch).decode("utf-8")
    head, *found = csv.reader(io.StringIO(text, newline=""))
    assert tuple(head) == COLUMNS
    assert [row[1] for row in found] == list(FORMULAS)
    assert {(float(row[2]), float(row[4])) for row in found} == {(0.1 + 0.2, 1e-20)}


def test_a_spreadsheet_is_given_no_formula_and_told_the_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    text = _shown("spreadsheet", monkeypatch).decode("utf-8")
    assert text.startswith("\ufeffimage,")
    _, *found = csv.reader(io.StringIO(text, newline=""))
    assert [row[1] for row in found] == ["'=1+1", "'+1", "'-1", "'@x", *FORMULAS[4:]]


def test_a_list_on_standard_input(trained: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    images = sorted((trained.images / "test" / "dog").iterdir())
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{path}\n" for path in images)))
    code, out, _ = trained("predict", "--image", "-", "--csv")
    assert code == 0
    assert [row["image"] for row in rows(out)] == [str(path) for path in images]


def test_unreadable_files_are_skipped_named_and_told_by_the_exit_code(trained: Project) -> None:
    bad = trained.images / "test" / "cat" / "000.png"
    bad.write_bytes(b"no picture")
    code, out, err = trained("predict", "--image", str(trained.images / "test"), "--csv")
    assert code == 1
    assert f"skipped: cannot read the image {bad}" in err
    assert len(rows(out)) == 11


def test_a_folder_is_walked_as_it_is_read_and_once_however_it_is_linked(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/b/2.jpg", "elsewhere/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a" / "d").symlink_to(tmp_path / "a")
    found = _walk(tmp_path / "a", (".png", ".jpg"))
    assert next(found).name == "1.png"
    (tmp_path / "a" / "b" / "4.png").touch()  # not listed yet: the folder may be of any size
    assert [path.name for path in found] == ["2.jpg", "4.png", "3.png"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "1.png").touch()
    listed = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert list(_walk(tmp_path, (".png",))) == [tmp_path / "1.png", tmp_path / "closed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to predict: name an image"),
        (("--image", "no/such"), "IMAGE=no/such: no such file"),
        (("--image", "."), "no JPEG or PNG in this folder"),
        (("--image", "IMAGES", "--run", "nope"), "RUN=nope: no run of that name"),
        (
            ("--image", "IMAGES", "--format", "xml"),
            "expected one of table, json, csv, spreadsheet",
        ),
        (("--image", "IMAGES", "--preprocess", "unit", "--run", "logistic"), "was trained with imagenet"),
        (("--image", "IMAGES", "--image-size", "64", "--run", "logistic"), "was trained with 32"),
        (("--image", "IMAGES", "--layers", "block1", "--run", "logistic"), "LAYERS=block1: the run"),
        (("--image", ""), "nothing to predict"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(
    trained: Project,
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    given = [str(trained.images) if word == "IMAGES" else word for word in arguments]
    code, _, err = trained("predict", *given)
    assert code == 2
    assert message in err.strip().splitlines()[-1]


def test_other_weights_are_refused_by_name(trained: Project, tmp_path: Path) -> None:
    from features.backbones import vgg16 as weights

    tensors = {name: array + 1 for name, array in weights.load(trained.weights).tensors.items()}
    weights.save(tensors, tmp_path / "other.h5")
    code, _, err = trained(
        "predict",
        "--run",
        "logistic",
        "--image",
        str(trained.images),
        "--weights",
        str(tmp_path / "other.h5"),
    )
    assert code == 2
    assert "WEIGHTS: the run" in err


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """An interpreter that does not find Headroom: it says of which type is what lies at a path."""
    code = "import joblib, sys\nfor path in sys.stdin: print(type(joblib.load(path.strip())), flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path_factory.mktemp("elsewhere"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        yield child


class TestExport:
    @pytest.mark.parametrize("classes", [2, 3])
    @pytest.mark.parametrize("head", [name for name in HEADS if name not in ("dense", "baseline")])
    def test_a_plain_object_predicts_the_same_without_headroom(
        self, head: str, classes: int, tmp_path: Path, elsewhere: subprocess.Popen[str]
    ) -> None:
        fake: Any = Fake(*blobs(classes, rows=400), train=300)
        run = train(fake, head)
        plain = joblib.load(write(run, tmp_path / "head.joblib"))
        assert type(plain).__module__.startswith("sklearn.")
        proba = plain.predict_proba(fake.matrix("test", ()))
        expected = _votes_alone(run, fake) if head == "knn" else run.test_scaled
        np.testing.assert_allclose(proba, expected, atol=1e-4)
        assert elsewhere.stdin is not None and elsewhere.stdout is not None
        print(tmp_path / "head.joblib", file=elsewhere.stdin, flush=True)
        assert elsewhere.stdout.readline().strip() == str(type(plain))

    def test_a_keras_head_becomes_a_keras_model(self, tmp_path: Path) -> None:
        fake: Any = Fake(*blobs(rows=400), train=300)
        run = train(fake, "baseline")
        import keras

        plain = keras.models.load_model(write(run, tmp_path / "head.keras"))
        np.testing.assert_allclose(plain(fake.matrix("test", ())), run.test_scaled, atol=1e-4)

    def test_a_run_is_not_exported_as_what_it_is_not(self, trained: Project, tmp_path: Path) -> None:
        to = str(tmp_path / "head.joblib")
        code, _, err = trained("export", "--run", "logistic", "--preprocess", "unit", "--to", to)
        assert code == 2
        assert "PREPROCESS=unit: the run" in err
        assert not Path(to).exists()

    def test_a_disk_that_is_full_costs_no_earlier_export(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake: Any = Fake(*blobs(rows=60), train=50)
        run = train(fake, "ridge")
        before = write(run, tmp_path / "head.joblib").read_bytes()

        def full(_: object, path: Path) -> None:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(joblib, "dump", full)
        with pytest.raises(UserError, match="No space left on device; choose another to="):
            write(run, tmp_path / "head.joblib")
        assert [path.read_bytes() for path in tmp_path.glob("*")] == [before]

    def test_by_the_command_line(self, trained: Project, tmp_path: Path) -> None:
        code, out, err = trained("export", "--head", "logistic", "--to", str(tmp_path / "head.joblib"))
        assert code == 0
        assert out.strip() == str(tmp_path / "head.joblib")
        assert "runs code when loaded" in err

    @pytest.mark.parametrize(
        ("to", "message"), [(None, "nowhere to export to"), ("x.pkl", "ends in .joblib")]
    )
    def test_a_wrong_name_is_refused(self, trained: Project, to: str | None, message: str) -> None:
        code, _, err = trained("export", "--head", "logistic", *(["--to", to] if to else []))
        assert code == 2
        assert message in err


@pytest.mark.parametrize("given", ["", "\n \n"])
def test_an_empty_list_on_standard_input_is_told(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(given))
    with pytest.raises(UserError, match="IMAGE=-: nothing on standard input; send it a list of images"):
        _paths("-")
