"""Embeddings stored as float16: half the disk, float32 when read, and nothing that float16 cannot hold."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from features.backbones.extractor import VGG16
from features.cache import store as store_module
from features.cache.catalogue import find
from features.cache.embeddings import Embeddings
from features.cache.store import EmbeddingStore, fingerprint
from features.cache.verification import ROUNDED
from features.datasets.base import SPLITS
from features.datasets.folder import Folder
from features.errors import UserError
from tests.conftest import Project
from tests.features.cache.test_store import SPEC, WIDTHS, fill, vectors
from tests.stand_in import embed as stand_in_embed

HALF = VGG16("block3,block5", precision="float32", store="float16").spec()
LAYERS = ("block3", "block5")
Make = Callable[..., EmbeddingStore]


@pytest.fixture
def dataset(make_folder: Callable[..., Path]) -> Folder:
    return Folder(make_folder({"train": 12, "test": 5}))


@pytest.fixture
def make(dataset: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setattr(store_module, "SHARDS", (10,))

    def make(max_file: int | str = "50GB", spec: dict[str, Any] = HALF) -> EmbeddingStore:
        return EmbeddingStore(tmp_path / "embeddings", dataset, spec, WIDTHS, max_file)

    return make


class TestSpec:
    def test_a_float32_cache_has_the_spec_and_fingerprint_that_it_always_had(self) -> None:
        assert VGG16("block3,block5", precision="float32", store="float32").spec() == SPEC
        assert "store" not in SPEC
        pinned = {**SPEC, "weights_sha256": "0"}
        assert fingerprint(pinned, "d", None) == (
            "d1f62deaa2e603096c25f3844afd64ac8bbdf6ba1bce36fb50c9e173c946fbe0"
        )

    def test_a_float16_cache_is_another(self) -> None:
        assert HALF == {**SPEC, "store": "float16"}
        assert fingerprint(HALF, "d", None) != fingerprint(SPEC, "d", None)

    def test_another_dtype_is_refused(self) -> None:
        with pytest.raises(UserError, match=r"^store=float64: expected one of float32, float16$"):
            VGG16(store="float64")


@pytest.mark.parametrize("most", ["50GB", 500], ids=["one file", "parts"])
class TestRoundTrip:
    def test_what_is_read_is_what_float16_holds_as_float32(
        self, make: Make, dataset: Folder, most: int | str
    ) -> None:
        embeddings = fill(make(most), dataset)
        assert embeddings.path.is_dir() == (most == 500)
        for split in SPLITS:
            rows = embeddings.rows[split]
            expected = np.hstack([vectors(split, 0, rows)[layer] for layer in LAYERS]).astype(np.float16)
            whole = embeddings.matrix(split, LAYERS)
            assert whole.dtype == np.float32
            assert np.array_equal(whole, expected)
            order = np.random.default_rng(0).permutation(rows)
            assert np.array_equal(embeddings.matrix(split, LAYERS, order), whole[order])
            assert np.array_equal(np.vstack([X for _, X in embeddings.blocks(split, LAYERS, 7)]), whole)
            some = embeddings.take(split, LAYERS, np.array([0, 5, 11]))
            assert some.dtype == embeddings.rows_of(split, "block3", slice(0, 3)).dtype == np.float32
            assert np.array_equal(some, whole[[0, 5, 11]])
        assert all(problem is None for _, problem in embeddings.problems())

    def test_a_changed_number_is_noticed(self, make: Make, dataset: Folder, most: int | str) -> None:
        embeddings = fill(make(most), dataset)
        (path, *_) = sorted(embeddings.path.glob("train*.h5")) or [embeddings.path]
        with h5py.File(path, "r+") as file:
            assert file["train/block3"].dtype == np.float16
            file["train/block3"][3, 0] += np.float16(1)
        problems = [problem for _, problem in Embeddings(embeddings.path).problems() if problem]
        assert len(problems) == 1
        assert "is damaged in train/block3" in problems[0]


def test_the_name_of_the_file_says_so(make: Make) -> None:
    assert "-float32-stored-float16-" in make().path.name
    assert "stored" not in make(spec=SPEC).path.name


def test_caches_of_both_kinds_lie_beside_each_other(make: Make, dataset: Folder) -> None:
    half, full = fill(make(), dataset), fill(make(spec=SPEC), dataset)
    for spec, path, phrase in (
        (HALF, half.path, "cached: store=float32, asked: float16"),
        (SPEC, full.path, "cached: store=float16, asked: float32"),
    ):
        fitting, ((_, phrases),) = find(half.path.parent, spec)
        assert [item.path for item in fitting] == [path]
        assert phrases == [phrase]


def test_an_interrupted_pass_goes_on(make: Make, dataset: Folder) -> None:
    first = make()
    with first.lock():
        for shard in first.shards[:4]:
            first.folder.put(shard, vectors(shard.split, shard.start, shard.stop))
    assert make().missing() == first.shards[4:]
    assert make(spec=SPEC).missing() == first.shards, "a pass of float32 is another"
    assert fill(make(), dataset).rows == {"train": 36, "test": 15}


class TestOverflow:
    @pytest.mark.parametrize("most", ["50GB", 1], ids=["one file", "parts"])
    @pytest.mark.parametrize("number", [65520.0, -65520.0, 1e30])
    def test_what_float16_cannot_hold_is_refused(
        self, make: Make, monkeypatch: pytest.MonkeyPatch, number: float, most: int | str
    ) -> None:
        store = make(most)
        shard = store.shards[1]
        large = vectors(shard.split, shard.start, shard.stop)
        large["block5"][3, 1] = number
        told = (
            f"store=float16: expected numbers up to 65,504, got {abs(number):,.6g} in block5 of rows 10 "
            "to 19 of train; give store=float32"
        )
        with store.lock():
            with pytest.raises(UserError, match=re.escape(told)), store.assembly() as assembly:
                assembly.add(shard_ := store.shards[0], vectors(shard_.split, shard_.start, shard_.stop))
                assembly.add(shard, large)
            assert not store.path.exists()
            assert not list(store.path.parent.glob("**/*.tmp"))

    def test_what_rounds_to_the_largest_is_kept(self, make: Make, dataset: Folder) -> None:
        store = make()
        with store.lock(), store.assembly() as assembly:
            for shard in store.shards:
                full = {
                    layer: np.full((shard.rows, width), 65519, np.float32) for layer, width in WIDTHS.items()
                }
                assembly.add(shard, full)
            assert store.commit(assembly, {}).matrix("test", LAYERS).max() == 65504


@pytest.mark.slow
class TestCommands:
    GIVEN = ("--store", "float16")

    def test_every_command_knows_it(self, project: Project) -> None:
        for stage, more in (
            ("features", ()),
            ("train", ("--head", "centroid")),
            ("train", ("--head", "ridge")),
            ("verify", ()),
            ("curve", ("--head", "ridge")),
        ):
            code, printed, err = project(stage, *self.GIVEN, *more)
            assert code == 0, err + printed
        with h5py.File(project.cache) as file:
            assert {file["train"][layer].dtype for layer in ("block4", "block5")} == {np.dtype(np.float16)}
        for stage, more in (
            ("report", ()),
            ("predict", ("--image", str(project.images / "test"))),
            ("evaluate", ("--run", "ridge")),
        ):
            code, printed, err = project(stage, *more)
            assert code == 0, err + printed
        entry = json.loads((project.out / "report" / "report.json").read_text())["groups"][0]["entries"][0]
        assert entry["precision"] == "float32, stored as float16"
        assert "float32, stored as float16" in entry["embedding"]

    def test_what_was_not_asked_for_is_not_taken(self, project: Project) -> None:
        project("features", *self.GIVEN)
        code, _, err = project("train", "--head", "prior")
        assert code == 2
        assert "cached: STORE=float16, asked: float32" in err
        code, _, err = project("features")
        assert code == 0
        assert "not cached yet; the closest is" in err
        code, _, err = project("train", "--head", "prior", *self.GIVEN)
        assert code == 0, err

    def test_runs_are_told_apart(self, project: Project) -> None:
        for more in ((), self.GIVEN):
            project("features", *more)
            project("train", "--head", "centroid", *more)
        assert project("report")[0] == 0
        entries = json.loads((project.out / "report" / "report.json").read_text())["groups"][0]["entries"]
        assert sorted(entry["precision"] for entry in entries) == ["float32", "float32, stored as float16"]
        names = [entry["name"] for entry in entries]
        assert any("stored as float16" in name for name in names)
        code, _, err = project("predict", "--image", str(project.images / "test"), *self.GIVEN)
        assert code == 0, err

    def test_numbers_that_overflow_are_told_in_a_line(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def large(self: Any, images: Any, advance: Any = None) -> Any:
            return {layer: array * 1e3 for layer, array in stand_in_embed(self, images, advance).items()}

        monkeypatch.setattr(VGG16, "embed", large)
        code, _, err = project("features", *self.GIVEN)
        assert code == 2
        line = err.strip().splitlines()[-1]
        assert line.startswith("error: STORE=float16: expected numbers up to 65,504, got ")
        assert line.endswith("; give STORE=float32")
        assert project("features")[0] == 0

    def test_rounding_is_allowed_for_and_no_more(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        project("features", *self.GIVEN)
        assert project("verify", *self.GIVEN)[0] == 0
        for factor, code in ((1 + 0.5 * ROUNDED["float16"], 0), (1 + 4 * ROUNDED["float16"], 1)):

            def moved(self: Any, images: Any, advance: Any = None, by: float = factor) -> Any:
                found = stand_in_embed(self, images, advance)
                return {layer: (array * by).astype(np.float32) for layer, array in found.items()}

            monkeypatch.setattr(VGG16, "embed", moved)
            assert project("verify", *self.GIVEN)[0] == code
