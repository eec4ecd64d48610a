"""Whatever a cache no longer says rightly is found, and by its own line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from features.backbones import vgg16 as weights
from features.backbones.extractor import VGG16
from features.cache.verification import _disasters
from features.datasets.folder import Folder
from features.executors import base
from tests.conftest import Project, picture
from tests.stand_in import embed as stand_in_embed

pytestmark = pytest.mark.slow

LINES = {
    "NaN": "every number is finite",
    "infinite": "every number is finite",
    "zero row": "no row is constant",
    "constant row": "no row is constant",
    "dead": "at most 50% of a layer's dimensions are dead",
    "copies": "at most 1% of the rows are doubled",
    "label": "labels are within the classes",
}
ROWS_OF_BLOCK5 = ("40 rows of train/block5", "12 rows of test/block5")


class Fake:
    """Healthy embeddings of two layers, until something is done to them."""

    layers = ("block3", "block5")
    class_names = ("cat", "dog")

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.X = {
            f"{split}/{layer}": rng.random((2500, 8), np.float32)
            for split in ("train", "test")
            for layer in self.layers
        }
        self.y = {split: np.arange(2500) % 2 for split in ("train", "test")}

    def labels(self, split: str) -> NDArray[np.int64]:
        return self.y[split]

    def rows_of(self, split: str, layer: str, rows: slice) -> NDArray[np.float32]:
        return self.X[f"{split}/{layer}"][rows]


def found(fake: Any) -> dict[str, str]:
    return {name: problem for name, problem in _disasters(fake, fake) if problem}


def test_healthy_embeddings_pass_every_check() -> None:
    names = [name for name, _ in _disasters(Fake(), Fake())]  # type: ignore[arg-type]
    assert set(names) == set(LINES.values())
    assert found(Fake()) == {}


@pytest.mark.parametrize("disaster", LINES)
def test_each_disaster_fails_its_own_line_and_names_the_place(disaster: str) -> None:
    fake = Fake()
    vectors = fake.X["test/block5"]
    if disaster == "label":
        fake.y["test"][7] = 2
    elif disaster == "dead":
        vectors[:, :5] = 0.25
    elif disaster == "copies":
        vectors[1000:1100] = vectors[:100]
    else:
        row = {"NaN": np.nan, "infinite": np.inf, "zero row": 0.0, "constant row": 3.0}[disaster]
        vectors[1234] = row
    (line,) = found(fake).items()
    assert line[0] == LINES[disaster]
    assert ("test" if disaster == "label" else "test/block5") in line[1]


def test_a_few_copies_are_no_disaster() -> None:
    fake = Fake()
    fake.X["train/block3"][1000:1010] = fake.X["train/block3"][:10]
    assert found(fake) == {}


def verified(project: Project) -> tuple[int, list[str], dict[str, str]]:
    """The exit code of ``verify``, the checks that held, and the problem of each other."""
    code, out, err = project("verify")
    assert err == ""
    lines = out.splitlines()
    well = [line.removeprefix("ok     ") for line in lines if line.startswith("ok     ")]
    failed = [line.removeprefix("FAILED ").partition(": ") for line in lines if line.startswith("FAILED ")]
    assert len(well) + len(failed) == len(lines)
    return code, well, {name: problem for name, _, problem in failed}


def embedding(change: Callable[[Any], None]) -> Callable[..., Any]:
    """The stand-in network, with something done to the block5 vectors of each call."""

    def embed(self: Any, images: Any, advance: Any = None) -> Any:
        vectors = stand_in_embed(self, images, advance)
        change(vectors["block5"])
        return vectors

    return embed


def perturb(vectors: Any) -> None:
    vectors[3] *= 1.001  # ten times the tolerance


def one_nan(vectors: Any) -> None:
    vectors[3] = np.nan


def all_nan(vectors: Any) -> None:
    vectors[:] = np.nan


def all_zero(vectors: Any) -> None:
    vectors[:] = 0


def test_every_line_of_a_healthy_cache_is_ok(project: Project) -> None:
    project("features")
    code, well, failed = verified(project)
    assert (code, failed) == (0, {})
    assert {"digest of the images", "rows of train", "rows of test", "digest of the weights"} < set(well)
    assert {*LINES.values(), "12 rows of test/block4 embedded again"} < set(well)


class TestRowsEmbeddedAgain:
    def test_a_stored_row_beyond_the_tolerance_is_found(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(VGG16, "embed", embedding(perturb))
        project("features")  # the file has the digests of what is wrong
        monkeypatch.setattr(VGG16, "embed", stand_in_embed)
        code, well, failed = verified(project)
        assert code == 1
        assert failed["12 rows of test/block5 embedded again"] == (
            "row 3 is 1.0e-03 of its length away, expected at most 0.0001"
        )
        assert list(failed) == [f"{rows} embedded again" for rows in ROWS_OF_BLOCK5]
        assert "12 rows of test/block4 embedded again" in well

    def test_a_stored_row_within_the_tolerance_is_not(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        project("features")

        def shift(vectors: Any) -> None:
            vectors *= 1.00005

        monkeypatch.setattr(VGG16, "embed", embedding(shift))
        assert verified(project)[0] == 0

    @pytest.mark.parametrize("change", [one_nan, all_nan, all_zero])
    def test_what_the_network_no_longer_says_is_found(
        self, project: Project, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], None]
    ) -> None:
        project("features")
        monkeypatch.setattr(VGG16, "embed", embedding(change))
        code, _, failed = verified(project)
        assert code == 1
        assert list(failed) == [f"{rows} embedded again" for rows in ROWS_OF_BLOCK5]

    @pytest.mark.parametrize("change", [one_nan, all_nan])
    def test_a_nan_that_comes_again_is_still_no_number(
        self, project: Project, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], None]
    ) -> None:
        monkeypatch.setattr(base, "_refuse_overflow", lambda *_: None)  # as it was once
        monkeypatch.setattr(VGG16, "embed", embedding(change))
        project("features")
        code, _, failed = verified(project)
        assert code == 1
        assert set(failed) == {
            "every number is finite",
            *(f"{rows} embedded again" for rows in ROWS_OF_BLOCK5),
        }

    def test_zero_from_zero_is_no_distance(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(VGG16, "embed", embedding(all_zero))
        project("features")
        code, well, failed = verified(project)
        assert code == 1
        assert list(failed) == ["no row is constant"]
        assert "12 rows of test/block5 embedded again" in well

    def test_a_row_that_was_zero_and_is_not_is_found(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(VGG16, "embed", embedding(all_zero))
        project("features")
        monkeypatch.setattr(VGG16, "embed", stand_in_embed)
        _, _, failed = verified(project)
        assert "is inf of its length away" in failed["12 rows of test/block5 embedded again"]


class TestOtherImages:
    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ("removed", "expected 40 images, got 39: 'train/cat/001.jpg' is gone"),
            ("added", "expected 40 images, got 41: 'train/cat/more0.jpg' is new"),
            ("renamed", "expected 40 images, got 40: 'train/cat/001.jpg' is gone, 'train/cat/z.jpg' is new"),
            (
                "many added",  # beyond the file's rows, and beyond a block of them
                "expected 40 images, got 1240: 'train/cat/more0.jpg' is new, 'train/cat/more1.jpg' is new, "
                "'train/cat/more10.jpg' is new and 1,197 more",
            ),
        ],
    )
    def test_the_split_says_which_and_no_more_is_checked(
        self, project: Project, change: str, problem: str
    ) -> None:
        project("features")
        image = project.images / "train" / "cat" / "001.jpg"
        if change == "renamed":
            image.rename(image.with_name("z.jpg"))
        for number in range({"added": 1, "many added": 1200}.get(change, 0)):
            shutil.copy(image, image.with_name(f"more{number}.jpg"))
        if change == "removed":
            image.unlink()
        code, well, failed = verified(project)
        assert code == 1
        assert list(failed) == ["digest of the images", "rows of train"]
        assert failed["rows of train"] == problem
        assert well[-1] == "rows of test"

    def test_an_image_whose_pixels_changed(self, project: Project) -> None:
        project("features")
        picture(np.random.default_rng(9), 1).save(project.images / "train" / "cat" / "000.png")
        code, well, failed = verified(project)
        assert code == 1
        assert list(failed) == ["digest of the images"]
        assert well[-1] == "rows of test"

    def test_labels_that_differ(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        project("features")
        labels = Folder.labels
        monkeypatch.setattr(Folder, "labels", lambda self, split: labels(self, split)[::-1])
        code, _, failed = verified(project)
        assert code == 1
        assert failed == dict.fromkeys(
            ("rows of train", "rows of test"), "the labels differ from the dataset's"
        )


class TestOtherWeights:
    @pytest.fixture
    def replaced(self, project: Project, tmp_path: Path) -> Path:
        """The weights of the cache, which are about to change where they lie."""
        project.weights = str(shutil.copy(project.weights, tmp_path / "weights.h5"))
        project("features")
        return Path(project.weights)

    def test_other_tensors_fail_their_digest(self, project: Project, replaced: Path) -> None:
        tensors = weights.load(project.weights).tensors
        tensors["block1_conv1/bias"] = tensors["block1_conv1/bias"] + 1
        weights.save(tensors, replaced)
        code, well, failed = verified(project)
        assert code == 1
        assert list(failed) == ["digest of the weights"]
        assert not any("embedded again" in name for name in well), "other weights say something else"

    def test_weights_that_are_gone_fail_it_too(self, project: Project, replaced: Path) -> None:
        replaced.unlink()
        code, _, failed = verified(project)
        assert code == 1
        assert f"WEIGHTS={replaced}: no such file" in failed["digest of the weights"]


class TestDamagedFiles:
    @pytest.mark.parametrize("damage", ["empty", "cut short", "no HDF5", "header"])
    def test_a_file_that_cannot_be_opened_fails_by_name(self, project: Project, damage: str) -> None:
        project("features")
        path, content = project.cache, project.cache.read_bytes()
        if damage == "header":
            with h5py.File(path, "r+") as file:
                file.attrs["spec"] = file.attrs["spec"].replace(b"imagenet", b"unit")
        else:
            kept = {"empty": 0, "cut short": len(content) // 2, "no HDF5": 0}[damage]
            path.write_bytes(content[:kept] + b"no HDF5" * (damage == "no HDF5"))
        code, _, failed = verified(project)
        assert code == 1
        assert "is damaged" in failed[f"header of {path.name}"]
        assert "no embeddings fit" in failed["the cache that is asked for"]

    def test_the_cache_that_is_asked_for_is_verified_beside_a_damaged_one(self, project: Project) -> None:
        project("features")
        (project.cache.parent / "other.h5").write_bytes(b"no HDF5")
        code, well, failed = verified(project)
        assert code == 1
        assert list(failed) == ["header of other.h5"]
        assert "12 rows of test/block5 embedded again" in well

    def test_what_is_not_damaged_is_not_called_so(self, project: Project) -> None:
        project("features")
        other = project.cache.parent / "newer.h5"
        with h5py.File(other, "w") as file:
            file.attrs["headroom_format"] = 99
        assert verified(project)[0] == 0
