"""A run on disk is whole, proved, and data only."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.base import BaseEstimator
from sklearn.naive_bayes import GaussianNB

from features import budget
from features.cache.embeddings import canonical
from features.errors import UserError
from models.heads.estimator import EstimatorHead
from models.runs import changes, looks
from models.runs.changes import LOCK, remove
from models.runs.collection import find, load_all
from models.runs.identity import identity
from models.runs.run import Run
from models.runs.saving import FORMAT, load, save
from models.runs.shape import SHAPE
from tests.models.heads.test_heads import blobs
from tests.models.test_selection import Fake, train
from tests.models.test_selection import fake as fake

ROOT = Path(__file__).parents[3]
CURVES = ("loss", "accuracy", "val_loss", "val_accuracy")


@pytest.fixture(scope="module")
def run() -> Run:
    return train(Fake(*blobs(rows=200), train=150))


@pytest.mark.parametrize("head", ["logistic", "dense"])
def test_a_run_comes_back_with_a_head_that_predicts_the_same(tmp_path: Path, head: str) -> None:
    fake = Fake(*blobs(rows=200), train=150)
    run = train(fake, head)
    again = load(save(run, tmp_path), with_head=True)
    for name in ("head", "seed", "layers", "spec", "fingerprint", "chosen", "sweep", "history", "seconds"):
        assert getattr(again, name) == getattr(run, name)
    for name in ("val_rows", "val_labels", "val_proba", "test_labels", "test_proba"):
        assert np.array_equal(getattr(again, name), getattr(run, name))
    assert again.id == run.id
    proba = again.estimator.predict_proba(fake.matrix("test", ()))
    np.testing.assert_allclose(proba, run.test_proba, atol=1e-6)


def test_without_the_head_the_head_is_not_read(run: Run, tmp_path: Path) -> None:
    folder = save(run, tmp_path)
    (folder / "head.npz").unlink()
    assert load(folder).estimator is None


def test_an_equal_run_replaces_and_another_does_not(run: Run, tmp_path: Path) -> None:
    assert save(run, tmp_path) == save(run, tmp_path)
    save(train(Fake(*blobs(rows=200), train=150), "ridge"), tmp_path)
    assert len(load_all(tmp_path)) == 2
    assert not list(tmp_path.glob(".*"))


def test_a_repeat_that_chose_otherwise_replaces_too(tmp_path: Path) -> None:
    run = train(Fake(*blobs(rows=200), train=150), "ridge")
    save(run, tmp_path)
    run.chosen = {"alpha": 10.0}
    run.parameters |= run.chosen
    folder = save(run, tmp_path)
    assert [each.chosen for each in load_all(tmp_path)] == [run.chosen]
    assert load(folder).parameters == run.parameters


def test_one_run_under_two_names_of_its_dataset_counts_once(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(run, tmp_path)
    save(replace(run, dataset=run.dataset | {"name": "renamed"}), tmp_path)
    assert len(load_all(tmp_path)) == 1
    assert "is the same run as" in capsys.readouterr().err


def test_a_run_whose_replacement_never_came_gets_its_name_back(run: Run, tmp_path: Path) -> None:
    folder = save(run, tmp_path)
    for left in (f".{folder.name}.old", f".{folder.name}.123.old"):  # the second of an earlier version
        folder.rename(tmp_path / left)  # killed between two renames
        assert [found.id for found in load_all(tmp_path)] == [run.id]
        assert folder.is_dir()


class TestAnotherProcess:
    """It may be of another container, where no process number of ours means anything."""

    SAVES = """
import sys, time
from pathlib import Path
from models.runs import changes
with changes.changing(Path(sys.argv[1])):
    (Path(sys.argv[1]) / sys.argv[2]).mkdir()
    print("saving", flush=True)
    time.sleep(60)
"""

    @pytest.fixture(params=[".tmp", ".99999999.tmp"])
    def half(self, run: Run, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
        """What another process has saved so far; no process here has the number in its name."""
        return tmp_path / f".{run.folder}{request.param}"

    @pytest.fixture
    def other(self, half: Path) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-c", self.SAVES, str(half.parent), half.name]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"saving\n"
            yield child
            child.kill()

    def test_a_reader_leaves_what_it_saves_until_it_is_dead(
        self, half: Path, other: subprocess.Popen[bytes]
    ) -> None:
        assert load_all(half.parent) == []
        assert half.is_dir()
        other.kill()
        other.wait()
        assert load_all(half.parent) == []
        assert not half.exists()

    def test_a_writer_waits_for_it_and_then_tells(
        self, run: Run, half: Path, other: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(changes, "PATIENCE", 0.2)
        with pytest.raises(UserError, match=r"another process has been writing to .*; wait for it, then run"):
            save(run, half.parent)
        assert half.is_dir()
        other.kill()
        other.wait()
        folder = save(run, half.parent)
        assert {path.name for path in half.parent.iterdir()} == {folder.name, LOCK, looks.FILE}


def test_a_replacement_that_fails_keeps_the_earlier_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(run, tmp_path)
    replace = os.replace

    def fail(source: Path, target: Path) -> None:
        if str(source).endswith(".tmp"):
            raise OSError(5, "Input/output error")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(UserError, match="Input/output error"):
            save(run, tmp_path)
    assert load(folder).id == run.id


def test_a_dataset_with_a_dot_keeps_its_runs(tmp_path: Path) -> None:
    fake = Fake(*blobs(rows=200), train=150)
    fake.dataset = {**fake.dataset, "name": ".pets"}  # type: ignore[misc]
    save(train(fake), tmp_path)
    assert len(load_all(tmp_path)) == 1


@pytest.mark.parametrize("name", ["predictions.npz", "head.npz"])
def test_a_flipped_bit_is_refused(run: Run, tmp_path: Path, name: str) -> None:
    folder = save(run, tmp_path)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is damaged"):
        load(folder, with_head=True)


def test_a_pickle_inside_is_never_loaded(run: Run, tmp_path: Path) -> None:
    folder = save(run, tmp_path)
    evil = pickle.dumps(np.array([object], dtype=object))
    (folder / "predictions.npz").write_bytes(evil)
    document = json.loads((folder / "run.json").read_text())
    document["sha256"]["predictions.npz"] = hashlib.sha256(evil).hexdigest()
    (folder / "run.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match="not an intact run"):
        load(folder)


def test_a_number_changed_in_the_json_is_refused(run: Run, tmp_path: Path) -> None:
    folder = save(run, tmp_path)
    document = json.loads((folder / "run.json").read_text())
    document["temperature"] *= 2
    (folder / "run.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"run.json is damaged"):
        load(folder)


@pytest.mark.parametrize("change", ["a field less", "a parameter more", "learned nothing", "no digests"])
def test_a_json_of_another_shape_is_passed_over(
    run: Run, tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even if its digest is right: it may be of a version between two releases."""
    folder = save(run, tmp_path)
    document = json.loads((folder / "run.json").read_text())
    digests = document.pop("sha256")
    if change == "a field less":
        del document["width"]
    elif change == "a parameter more":
        document["parameters"]["colour"] = 1
    elif change == "learned nothing":
        del document["learned"]
    digests["run.json"] = hashlib.sha256(canonical(document).encode()).hexdigest()
    document["sha256"] = None if change == "no digests" else digests
    (folder / "run.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"not an intact run"):
        load(folder, with_head=True)
    if change in ("a field less", "no digests"):
        assert load_all(tmp_path) == []
        assert "passed over" in capsys.readouterr().err


def rewritten(folder: Path, arrays: dict[str, Any] | None = None, **said: Any) -> Path:
    """The run in a folder says something else, and all its digests are right."""
    document = json.loads((folder / "run.json").read_text())
    digests = document.pop("sha256")
    if arrays:
        with np.load(folder / "predictions.npz") as archive:
            np.savez(folder / "predictions.npz", **dict(archive) | arrays)
        digests["predictions.npz"] = hashlib.sha256((folder / "predictions.npz").read_bytes()).hexdigest()
    document |= said
    digests["run.json"] = hashlib.sha256(canonical(document).encode()).hexdigest()
    (folder / "run.json").write_text(json.dumps({**document, "sha256": digests}))
    return folder


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ({"spec": None}, "spec"),
        ({"spec": {"backbone": "vgg16"}}, "spec"),
        ({"dataset": []}, "dataset"),
        ({"head": 7}, "head"),
        ({"head": "VotingClassifier"}, "VotingClassifier cannot be a head"),
        ({"seed": "0"}, "seed"),
        ({"seed": True}, "seed"),
        ({"layers": "block5"}, "layers"),
        ({"layers": []}, "layers"),
        ({"class_names": [1, 2, 3]}, "class_names"),
        ({"class_names": ["a", "b"]}, "val_labels"),
        ({"width": 0}, "width"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": "1.0"}, "temperature"),
        ({"train_accuracy": 1.5}, "train_accuracy"),
        ({"seconds": {"select": 1.0}}, "seconds.refit"),
        ({"seconds": {"select": -1.0, "refit": 1.0, "predict": 1.0}}, "seconds.select"),
        ({"floors": {"prior": "low"}}, "floors"),
        ({"warnings": "none"}, "warnings"),
        ({"sweep": []}, "neither a sweep nor members"),
        ({"sweep": [{"accuracy": 0.5}]}, r"sweep\[0\]"),
        ({"sweep": [{"accuracy": 0.5, "loss": float("nan")}]}, r"sweep\[0\]"),
        ({"sweep": [{"accuracy": 0.5, "loss": 1.0, "value": 1}], "chosen": {}}, "chosen is empty"),
        ({"sweep": [{"accuracy": 0.5, "loss": 1.0}] * 2}, "rows without a value"),
        ({"sweep": [{"accuracy": 0.5, "loss": 1.0, name: 1} for name in "ab"]}, "rows of several kinds"),
        ({"sweep": [{"accuracy": 0.5, "loss": 1.0, "train_accuracy": "x"}]}, "not numbers"),
        ({"history": {"loss": [1.0]}}, "history"),
        ({"history": {name: [0.5] for name in CURVES}, "kept_epoch": 2}, "kept_epoch"),
        ({"history": {name: [0.5] * len(name) for name in CURVES}}, "different lengths"),
        ({"members": {"../elsewhere": 1.0}}, "members"),
        ({"members": ["a"]}, "members"),
        ({"look": 1}, "look"),
        ({"arrays": {"val_proba": np.full((15, 3), np.nan)}}, "val_proba"),
        ({"arrays": {"test_proba": np.full((50, 3), 2.0)}}, "test_proba"),
        ({"arrays": {"test_proba": np.full((50, 2), 0.5)}}, "test_proba"),
        ({"arrays": {"test_proba": np.full((50, 3), "a")}}, "test_proba"),
        ({"arrays": {"test_labels": np.full(50, 3)}}, "test_labels"),
        ({"arrays": {"test_labels": np.zeros(0, np.int64)}}, "test_labels"),
        ({"arrays": {"val_labels": np.zeros((15, 3))}}, "val_labels"),
        ({"arrays": {"val_rows": np.arange(3)}}, "val_rows"),
        ({"arrays": {"more": np.arange(3)}}, "expected the arrays"),
    ],
)
def test_what_cannot_be_a_run_is_passed_over_in_words_though_its_digests_are_right(
    run: Run, tmp_path: Path, said: dict[str, Any], place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=place):
        load(rewritten(save(run, tmp_path), **said))
    assert load_all(tmp_path) == []
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("field", SHAPE)
def test_each_field_of_a_run_is_held_to_its_type(run: Run, tmp_path: Path, field: str) -> None:
    with pytest.raises(UserError, match=rf"not an intact run \({field}"):
        load(rewritten(save(run, tmp_path), **{field: [[["of no field"]]]}))


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b"[]", b"null", b'{"format": 5}'])
def test_a_json_that_is_none_is_passed_over(
    run: Run, tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (save(run, tmp_path) / "run.json").write_bytes(content)
    assert load_all(tmp_path) == []
    assert "passed over" in capsys.readouterr().err


def test_a_head_whose_parts_do_not_go_together_is_refused(run: Run, tmp_path: Path) -> None:
    folder = save(run, tmp_path)
    with np.load(folder / "head.npz") as archive:
        np.savez(folder / "head.npz", **dict(archive) | {"coef_": np.zeros((3, 4))})
    document = json.loads((folder / "run.json").read_text())
    document["sha256"]["head.npz"] = hashlib.sha256((folder / "head.npz").read_bytes()).hexdigest()
    (folder / "run.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match="its head cannot predict"):
        load(folder, with_head=True)


def test_a_file_larger_than_the_memory_is_not_even_hashed(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(run, tmp_path)
    monkeypatch.setattr(budget, "available", lambda: 1_000)
    assert load_all(tmp_path) == []
    assert "predictions.npz needs at least 0.0 GB of memory" in capsys.readouterr().err


def test_a_kill_while_a_run_is_removed_leaves_no_half_of_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(run, tmp_path)

    def killed(path: Path, **_: Any) -> None:
        (path / "predictions.npz").unlink(missing_ok=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed)
        remove(folder)
    assert list(tmp_path.glob("[!.]*-*")) == []
    assert load_all(tmp_path) == []
    assert not list(tmp_path.glob(".*.tmp")), "what was left is cleared up"


@pytest.mark.parametrize("damage", ["no json", "half a json", "a newer format", "a file less"])
def test_half_a_run_is_refused_in_words(run: Run, tmp_path: Path, damage: str) -> None:
    folder = save(run, tmp_path)
    path = folder / "run.json"
    text = path.read_text()
    if damage == "no json":
        path.unlink()
    elif damage == "half a json":
        path.write_text(text[: len(text) // 2])
    elif damage == "a newer format":
        path.write_text(text.replace(f'"format": {FORMAT}', '"format": 9'))
    else:
        (folder / "predictions.npz").unlink()
    with pytest.raises(UserError, match=r"not an intact run|has format 9"):
        load(folder)


def test_every_look_at_the_test_split_is_counted_for_good(run: Run, tmp_path: Path) -> None:
    shutil.rmtree(save(run, tmp_path))
    save(run, tmp_path)
    assert looks.read(tmp_path).counts == {run.test_digest: 2}


def test_an_equal_run_is_found_by_what_decided_it(tmp_path: Path) -> None:
    fake: Any = Fake(*blobs(rows=200), train=150)
    folder = save(train(fake, "ridge"), tmp_path)
    asked = identity(fake, ("block5",), "ridge", 7)  # nothing random: the seed is no part of it
    assert find(tmp_path, asked) == folder
    for name, other in (("layers", ["block4"]), ("fingerprint", "0"), ("head", "lda"), ("grid", {})):
        assert find(tmp_path, asked | {name: other}) is None
    (folder / "predictions.npz").unlink()
    assert find(tmp_path, asked) is None


def test_a_full_disk_leaves_no_half_run(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        save(run, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


class TestForeignHeads:
    """Heads that are scikit-learn's, or another package's."""

    def test_scikit_learns_is_kept_as_listed_types_and_predicts_as_before(
        self, fake: Fake, tmp_path: Path
    ) -> None:
        run = train(fake, "RandomForestClassifier", settings={"n_estimators": 5})
        folder = save(run, tmp_path)
        assert {path.name for path in folder.iterdir()} == {"run.json", "predictions.npz", "head.skops"}
        again = load(folder, with_head=True)
        assert np.array_equal(again.estimator.predict_proba(fake.matrix("test", ())), run.test_proba)
        assert again.parameters == run.parameters
        assert find(tmp_path, vars(run)) == folder

    def test_a_sweep_of_the_users_is_told_whole(self, fake: Fake) -> None:
        run = train(fake, "LogisticRegression", grid={"C": (1e-4, 1.0, 1e-2)})
        assert [row["value"] for row in run.sweep] == [1e-4, 1e-2, 1.0]
        assert run.grid == {"C": [1e-4, 1e-2, 1.0]}
        assert run.chosen["C"] == run.parameters["C"]

    def test_a_solver_that_stopped_early_is_a_note_in_the_row(self, fake: Fake) -> None:
        run = train(fake, "LogisticRegression", settings={"max_iter": 1})
        assert any("failed to converge" in note for note in run.warnings)

    def test_a_head_file_that_holds_anything_else_is_refused(self, fake: Fake, tmp_path: Path) -> None:
        folder = save(train(fake, "RidgeClassifier"), tmp_path)
        skops.io.dump(Stranger(), folder / "head.skops")
        document = json.loads((folder / "run.json").read_text())
        document["sha256"]["head.skops"] = hashlib.sha256((folder / "head.skops").read_bytes()).hexdigest()
        (folder / "run.json").write_text(json.dumps(document))
        with pytest.raises(UserError, match="Stranger, which is not on the list of trusted types"):
            load(folder, with_head=True)
        assert load(folder).head == "RidgeClassifier", "its predictions are"

    def test_another_packages_is_kept_and_read_only_where_that_is_asked_for(
        self, fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = train(fake, "sklearn.linear_model:RidgeClassifier")
        folder = save(run, tmp_path)
        assert ":" not in folder.name
        assert {path.name for path in folder.iterdir()} == {"run.json", "predictions.npz"}
        assert "trust=1 saves it" in capsys.readouterr().err
        with pytest.raises(UserError, match="predictions without a fitted head; train it again with trust=1"):
            load(folder, with_head=True, trust=True)
        save(run, tmp_path, trust=True)
        with pytest.raises(UserError, match=r"head\.joblib runs code when loaded; trust=1 loads it"):
            load(folder, with_head=True)
        again = load(folder, with_head=True, trust=True)
        assert np.array_equal(again.estimator.predict_proba(fake.matrix("test", ())), run.test_proba)

    @pytest.mark.parametrize("head", ["GaussianNB", "RadiusNeighborsClassifier"])
    def test_one_that_has_no_answer_far_from_its_rows_is_read_all_the_same(
        self, fake: Fake, tmp_path: Path, head: str
    ) -> None:
        for split in ("train", "test"):
            fake._X[split] = fake._X[split] * 1e-3 + 50  # far from the ones that a head is tried out on
        run = train(fake, head)
        again = load(save(run, tmp_path), with_head=True)
        assert np.array_equal(again.estimator.predict_proba(fake.matrix("test", ())), run.test_proba)

    def test_one_of_another_width_or_other_classes_is_refused(self, fake: Fake, tmp_path: Path) -> None:
        run = train(fake, "GaussianNB")
        narrow = GaussianNB().fit(fake.matrix("train", ())[:, :5], fake.labels())
        fewer = GaussianNB().fit(fake.matrix("train", ()), fake.labels() // 2)
        for fitted in (narrow, fewer):
            run.estimator = EstimatorHead.of_fitted(fitted, 300)
            with pytest.raises(UserError, match="is not an intact run"):
                load(save(run, tmp_path), with_head=True)

    def test_reading_runs_imports_no_strangers_code(self, fake: Fake, tmp_path: Path) -> None:
        run = train(fake, "RidgeClassifier")
        run.head = "this_module_does_not_exist:Class"
        save(run, tmp_path)
        (again,) = load_all(tmp_path)
        assert not again.is_set_as({}, {})


class Stranger(BaseEstimator):
    """A class that no list names."""


class TestNamedPipes:
    """A pipe that nobody writes to would be waited for without end."""

    @pytest.fixture(autouse=True)
    def limit(self) -> Iterator[None]:
        def late(*_: object) -> None:
            raise TimeoutError("it waits for a pipe")

        before = signal.signal(signal.SIGALRM, late)
        signal.alarm(20)
        yield
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)

    @pytest.mark.parametrize("name", ["run.json", "predictions.npz", "head.npz"])
    def test_in_the_place_of_a_runs_file_it_is_refused(self, run: Run, tmp_path: Path, name: str) -> None:
        folder = save(run, tmp_path)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(UserError, match="ot a regular file"):
            load(folder, with_head=True)
        assert len(load_all(tmp_path)) == (name == "head.npz")

    def test_in_the_place_of_the_looks_it_is_told(self, run: Run, tmp_path: Path) -> None:
        save(run, tmp_path)
        (tmp_path / looks.FILE).unlink()
        os.mkfifo(tmp_path / looks.FILE)
        assert "ot a regular file" in looks.read(tmp_path).damage
