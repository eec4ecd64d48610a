"""Thumbnails are of the images that were embedded, or there are none and a line says why."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from features.cache.embeddings import Embeddings
from features.datasets import cifar
from features.datasets.base import Dataset
from features.datasets.cifar import Cifar10
from features.datasets.folder import Folder
from features.datasets.registry import open_dataset
from features.download import cache_dir
from features.files import file_digest
from reports.context import thumbnails
from reports.context.thumbnails import SIDE, Pictures
from tests.conftest import Project

pytestmark = pytest.mark.slow

Make = Callable[..., Path]


def about(dataset: Dataset) -> dict[str, Any]:
    return {name: getattr(dataset, name) for name in ("name", "source", "note", "limit")} | {
        "digest": dataset.digest()
    }


def opened(uri: str | None) -> Image.Image:
    assert uri is not None
    head, _, content = uri.partition(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
    assert head == f"data:image/{(image.format or '').lower()}"
    return image


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: object) -> None:
        raise AssertionError("a download was attempted")

    monkeypatch.setattr(cifar, "fetch", fetch)


@pytest.mark.parametrize("limit", [None, 15])
def test_they_are_the_rows_of_the_dataset(make_folder: Make, limit: int | None) -> None:
    dataset = Folder(make_folder({"train": 8, "test": 6}), limit)
    pictures = Pictures(about(dataset))
    assert pictures.problem is None
    for split, row in (("train", 0), ("test", np.int64(14)), ("train", 7)):
        image = opened(pictures.uri(split, row))
        assert image.size == (40, 40), "images smaller than a thumbnail keep their size"
        (expected,) = dataset.images(split, row, row + 1, 40)
        assert np.abs(np.asarray(image.convert("RGB"), np.float64) - expected).mean() < 8


def test_larger_images_become_thumbnails(make_folder: Make) -> None:
    root = make_folder({"train": 8, "test": 3})
    name = root / "test" / "cat" / "000.png"
    Image.linear_gradient("L").convert("RGB").resize((300, 100)).save(name)
    pictures = Pictures(about(Folder(root)))
    assert opened(pictures.uri("test", 0)).size == (SIDE, SIDE)
    assert len(pictures.uri("test", 0) or "") < 8_000


def test_digits_are_always_there() -> None:
    digits = open_dataset("digits")
    pictures = Pictures(about(digits))
    image = opened(pictures.uri("test", 5))
    assert (image.format, image.size) == ("PNG", (8, 8))
    assert np.array_equal(np.asarray(image.convert("RGB")), digits.images("test", 5, 6, 8)[0])


def test_a_folder_that_moved_is_told(make_folder: Make) -> None:
    root = make_folder({"train": 8, "test": 3})
    dataset = about(Folder(root))
    root.rename(root.with_name("moved"))
    pictures = Pictures(dataset)
    assert pictures.problem == f"{root} is gone"
    assert pictures.uri("test", 0) is None


@pytest.mark.parametrize("change", ["an image", "one image less", "no class left", "limit"])
def test_other_images_are_not_shown(make_folder: Make, change: str) -> None:
    root = make_folder({"train": 8, "test": 3})
    dataset = about(Folder(root))
    image = root / "test" / "cat" / "001.jpg"
    if change == "an image":
        shutil.copy(root / "test" / "dog" / "001.jpg", image)
    elif change == "one image less":
        image.unlink()
    elif change == "no class left":
        shutil.rmtree(root / "train" / "cat")
    else:
        dataset["limit"] = 2
    problem = Pictures(dataset).problem
    assert problem
    assert "\n" not in problem


def test_an_image_that_goes_meanwhile_is_told(make_folder: Make) -> None:
    root = make_folder({"train": 8, "test": 3})
    pictures = Pictures(about(Folder(root)))
    (root / "test" / "cat" / "001.jpg").unlink()
    assert pictures.uri("test", 1) is None
    assert pictures.problem is not None
    assert "001.jpg" in pictures.problem
    assert pictures.uri("test", 0) is None


@pytest.mark.usefixtures("no_download")
@pytest.mark.parametrize("partial", [False, True])
def test_cifar10_is_not_downloaded(partial: bool) -> None:
    if partial:
        cache_dir().mkdir(parents=True)
        (cache_dir() / cifar.ARCHIVE_NAME).write_bytes(b"half an archive")
    pictures = Pictures(about(Cifar10()))
    assert pictures.problem is not None
    assert "the CIFAR-10 archive is neither" in pictures.problem
    assert ("partial" in pictures.problem) == partial
    assert pictures.uri("train", 0) is None


@pytest.mark.usefixtures("no_download")
def test_cifar10_from_the_cache(make_archive: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_archive(rows=20)
    digest = file_digest(archive)
    cache_dir().mkdir(parents=True)
    archive.rename(cache_dir() / cifar.ARCHIVE_NAME)

    def stand_in(
        source: str, archive: None, limit: int | None, offline: bool, remembered: Any, skip_unreadable: bool
    ) -> Dataset:
        assert (source, archive, skip_unreadable) == ("cifar10", None, False)
        return Cifar10(None, limit, sha256=digest, offline=offline, remembered=remembered)

    monkeypatch.setattr(thumbnails, "open_dataset", stand_in)
    dataset = Cifar10(None, sha256=digest)
    pictures = Pictures(about(dataset))
    assert pictures.problem is None
    assert opened(pictures.uri("test", 3)).size == (32, 32)
    assert Pictures({**about(dataset), "digest": "0" * 64}).problem is not None


@pytest.mark.usefixtures("no_download")
class TestAnArchiveOutsideTheCaches:
    """``ARCHIVE=`` of the report, else where the archive was when the images were embedded."""

    @pytest.fixture
    def archive(self, project: Project, make_archive: Make, monkeypatch: pytest.MonkeyPatch) -> Path:
        """That of a report that was made."""
        path = make_archive(rows=20)
        whole = partialmethod(Cifar10.__init__, sha256=file_digest(path))
        monkeypatch.setattr(Cifar10, "__init__", whole)
        assert project("features", "--dataset", "cifar10", "--archive", str(path))[0] == 0
        assert project("train", "--dataset", "cifar10", "--head", "centroid")[0] == 0
        assert project("report")[0] == 0
        return path

    def pictured(self, project: Project) -> bool:
        page = (project.out / "report" / "index.html").read_text()
        found = '<img src="data:image' in page
        assert found != ("Without pictures" in page)
        return found

    def test_pictures_go_and_come_with_it(self, project: Project, archive: Path) -> None:
        assert self.pictured(project)
        assert "nothing new" in project("report")[2]
        away = archive.rename(archive.with_name("away.tar.gz"))
        assert "nothing new" not in project("report")[2]
        assert not self.pictured(project)
        assert "nothing new" in project("report")[2]
        assert "nothing new" not in project("report", "--archive", str(away))[2]
        assert self.pictured(project), "as it is said where the archive is now"
        project("report")
        assert not self.pictured(project)
        away.rename(archive)
        assert "nothing new" not in project("report")[2]
        assert self.pictured(project)

    def test_a_wrong_archive_is_refused_in_a_line(self, project: Project, archive: Path) -> None:
        code, _, err = project("report", "--archive", "no/such")
        assert (code, err.strip()) == (2, f"error: ARCHIVE=no/such: no such file; expected {archive.name}")

    def test_embeddings_of_before_remember_none(
        self, project: Project, archive: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened = Embeddings.__init__

        def before(self: Embeddings, path: Path) -> None:
            opened(self, path)
            del self.provenance["archive"]

        monkeypatch.setattr(Embeddings, "__init__", before)
        assert project("report")[0] == 0
        assert not self.pictured(project)
        cache_dir().mkdir(parents=True, exist_ok=True)
        shutil.copy(archive, cache_dir() / cifar.ARCHIVE_NAME)
        assert project("report")[0] == 0
        assert self.pictured(project)

    def test_a_remembered_file_that_is_another_now_is_passed_over(
        self, project: Project, archive: Path
    ) -> None:
        cache_dir().mkdir(parents=True, exist_ok=True)
        shutil.copy(archive, cache_dir() / cifar.ARCHIVE_NAME)
        archive.write_bytes(b"another")
        assert "nothing new" not in project("report")[2]
        assert self.pictured(project)
