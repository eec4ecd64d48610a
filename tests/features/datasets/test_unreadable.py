"""SKIP_UNREADABLE=1: pictures that cannot be read are left out, listed and recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from features.cache.embeddings import Embeddings
from features.datasets import encoded
from features.datasets.base import SPLITS, Dataset
from features.datasets.digits import Digits
from features.datasets.filelist import csv_list
from features.datasets.registry import open_dataset
from features.errors import UserError
from tests.conftest import Project
from tests.features.datasets.packing import listed, write_shards
from tests.features.datasets.test_datasets import write_csv

Make = Callable[..., Path]
DAMAGED = ("train/cat/001.jpg", "train/eel/003.png", "test/dog/002.jpg")


def damage(root: Path) -> None:
    """Three ways of being no picture: nothing, half of one, something else."""
    whole = (root / DAMAGED[1]).read_bytes()
    for name, content in zip(DAMAGED, (b"", whole[: len(whole) // 2], b"no picture"), strict=True):
        (root / name).write_bytes(content)


@pytest.fixture
def root(make_folder: Make) -> Path:
    return make_folder({"train": 12, "test": 4})


@pytest.fixture(params=["folder", "csv", ".parquet", ".tar"])
def open_it(request: pytest.FixtureRequest, root: Path) -> Callable[..., Dataset]:
    """Opens the folder's pictures as they are when this is called for the first time."""

    def open_(skip_unreadable: bool = True, limit: int | None = None) -> Dataset:
        path = root
        if request.param == "csv":
            path = write_csv(root.with_name("pets.csv"), listed(root))
        elif request.param != "folder":
            path = root.with_name("shards")
            if not path.exists():
                write_shards(root, request.param)
        return open_dataset(str(path), limit=limit, skip_unreadable=skip_unreadable)

    return open_


class TestContract:
    def test_the_others_are_what_they_were(self, root: Path, open_it: Callable[..., Dataset]) -> None:
        damage(root)
        dataset, whole = open_it(), open_it(skip_unreadable=False)
        assert len(dataset.left_out()) == 3
        assert set(dataset.left_out()) == set(whole.ids("train") + whole.ids("test")) - set(
            dataset.ids("train") + dataset.ids("test")
        )
        assert [len(dataset.labels(split)) for split in SPLITS] == [34, 11]
        for split in SPLITS:
            of = dict(zip(whole.ids(split), whole.labels(split), strict=True))
            assert dataset.labels(split).tolist() == [of[name] for name in dataset.ids(split)]
            images = dataset.images(split, 0, len(dataset.labels(split)), 32)
            assert images.std(axis=(1, 2, 3)).min() > 1
        assert dataset.note == "3 unreadable pictures left out"

    def test_the_digest_tells_that_some_are_left_out(
        self, root: Path, open_it: Callable[..., Dataset]
    ) -> None:
        damage(root)
        assert open_it().digest() == open_it().digest(fresh=True) != open_it(skip_unreadable=False).digest()

    def test_where_all_can_be_read_nothing_changes(self, open_it: Callable[..., Dataset]) -> None:
        dataset, plain = open_it(), open_it(skip_unreadable=False)
        assert dataset.digest() == plain.digest()
        assert dataset.ids("test") == plain.ids("test")
        assert (dataset.left_out(), dataset.note) == ([], "")

    def test_what_was_found_is_remembered(
        self, root: Path, open_it: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(encoded, "CHECKED", 5)
        damage(root)
        before = open_it().left_out()
        monkeypatch.setattr(encoded, "read_square", lambda *_: pytest.fail("decoded again"))
        assert open_it().left_out() == before

    def test_without_it_the_first_is_named(self, root: Path, open_it: Callable[..., Dataset]) -> None:
        damage(root)
        with pytest.raises(
            UserError, match=r"cannot read the image .* expected .*; or leave .*: skip_unreadable=1$"
        ):
            open_it(skip_unreadable=False).images("train", 0, 36, 32)

    def test_a_limit_takes_its_share_of_what_can_be_read(
        self, root: Path, open_it: Callable[..., Dataset]
    ) -> None:
        damage(root)
        dataset = open_it(limit=30)
        assert len(dataset.labels("train")) == 30
        assert dataset.images("train", 0, 30, 32).shape == (30, 32, 32, 3)

    def test_a_class_that_is_left_with_too_few_is_named(
        self, root: Path, open_it: Callable[..., Dataset]
    ) -> None:
        for number in range(8):
            (next((root / "train" / "cat").glob(f"{number:03d}.*"))).write_bytes(b"no picture")
        with pytest.raises(UserError, match="class 'cat' has 4 images in train, expected at least 5"):
            open_it().labels("train")


def test_splits_are_held_out_before_any_are_left_out(make_folder: Make) -> None:
    root = make_folder(15)
    before = open_dataset(str(root))
    ids = before.ids("test")
    (root / ids[1]).write_bytes(b"no picture")
    assert open_dataset(str(root), skip_unreadable=True).ids("test") == [ids[0], *ids[2:]]


def test_files_of_a_list_that_are_not_there_are_left_out(root: Path) -> None:
    rows = listed(root)
    path = write_csv(root.parent / "list.csv", rows)
    (root.parent / rows[4][0]).unlink()
    assert csv_list(path, skip_unreadable=True).left_out() == [rows[4][0]]


def test_a_picture_that_is_put_right_is_in_again(root: Path) -> None:
    whole = (root / DAMAGED[0]).read_bytes()
    before = open_dataset(str(root)).digest()
    damage(root)
    assert DAMAGED[0] in open_dataset(str(root), skip_unreadable=True).left_out()
    (root / DAMAGED[0]).write_bytes(whole)
    dataset = open_dataset(str(root), skip_unreadable=True)
    assert sorted(dataset.left_out()) == sorted(DAMAGED[1:])
    assert dataset.digest() != before


def test_what_is_in_no_files_has_none_to_leave_out() -> None:
    assert open_dataset("digits", skip_unreadable=True).digest() == Digits().digest()
    assert Digits().left_out() == []


@pytest.mark.slow
def test_from_a_pass_to_the_report(project: Project) -> None:
    bad = project.images / "train" / "cat" / "007.jpg"
    bad.write_bytes(b"no picture")
    code, _, err = project("features")
    assert code == 2
    assert f"cannot read the image {bad}" in err
    code, _, err = project("features", "--skip-unreadable")
    (log,) = (project.out / "logs").glob("*.txt")
    assert code == 0
    assert f"left out: 1 unreadable picture (train/cat/007.jpg); listed in {log}" in err
    assert log.read_text() == "train/cat/007.jpg\n"
    cache = Embeddings(project.cache)
    assert (cache.dataset["unreadable"], cache.rows["train"]) == (1, 39)
    assert "train/cat/007.jpg" not in cache.ids("train")
    assert "cached and verified" in project("features", "--skip-unreadable", "1")[2]
    assert project("train", "--head", "centroid")[0] == 0
    assert project("verify")[0] == 0
    assert project("evaluate", "--skip-unreadable")[0] == 0
    assert project("report")[0] == 0
    assert "1 unreadable pictures left out" in (project.out / "report" / "index.html").read_text()
    bad.unlink()
    assert project("features")[0] == 0
    assert len(list((project.out / "embeddings").glob("*.h5"))) == 2
    _, _, err = project("train", "--head", "centroid")
    assert "centroid" in err
    assert (
        np.diff([Embeddings(path).rows["train"] for path in (project.out / "embeddings").glob("*.h5")]) == 0
    )
