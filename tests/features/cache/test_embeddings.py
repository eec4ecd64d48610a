"""Embeddings are read in blocks and by rows as they are read whole, and proved once."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from features.cache import assembly, part
from features.cache.embeddings import Damaged, Embeddings
from features.cache.part import Part
from features.cache.store import EmbeddingStore
from features.datasets.folder import Folder
from features.errors import UserError
from tests.features.cache.test_store import SPEC, WIDTHS, fill

LAYERS = ("block5", "block3")
CHUNK = 4


@pytest.fixture
def embeddings(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Embeddings:
    """90 + 15 rows in chunks of four, of which two are read at a time."""
    monkeypatch.setattr(assembly, "CHUNK", CHUNK)
    monkeypatch.setattr(part, "BLOCK_BYTES", 2 * CHUNK * 4 * max(WIDTHS.values()))
    dataset = Folder(make_folder({"train": 30, "test": 5}))
    return fill(EmbeddingStore(tmp_path / "embeddings", dataset, SPEC, WIDTHS), dataset)


@pytest.mark.parametrize("rows", [1, 7, 8, 64, 90, 1000])
def test_blocks_are_the_matrix_cut_into_rows(embeddings: Embeddings, rows: int) -> None:
    whole, end = embeddings.matrix("train", LAYERS), 0
    for start, X in embeddings.blocks("train", LAYERS, rows):
        assert start == end
        assert X.dtype == np.float32
        assert np.array_equal(X, whole[start : start + rows])
        end += len(X)
    assert end == 90


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [0],
        [89],
        [3, 4],
        [0, 1, 2, 3, 80],
        range(90),
        range(1, 90, 2),
        range(0, 90, 13),
        [5, 6, 7, 8, 20, 21],
    ],
    ids=str,
)
def test_rows_are_those_of_the_matrix(embeddings: Embeddings, rows: Any) -> None:
    wanted = np.array(rows, np.int64)
    assert np.array_equal(
        embeddings.take("train", LAYERS, wanted), embeddings.matrix("train", LAYERS)[wanted]
    )


def test_some_ids_are_those_of_all(embeddings: Embeddings) -> None:
    every = embeddings.ids("train")
    assert len(every) == 90
    for rows in ([], [0], [3, 4, 80, 89], range(90)):
        assert embeddings.ids("train", rows) == [every[row] for row in rows]
    assert embeddings.ids("test", slice(3, 9)) == embeddings.ids("test")[3:9]
    with pytest.raises(UserError, match=r"^rows: expected distinct ascending numbers from 0 to 14$"):
        embeddings.ids("test", [14, 15])


def test_a_slice_is_taken_as_of_an_array(embeddings: Embeddings) -> None:
    whole = embeddings.matrix("test", LAYERS)
    for rows in (slice(None), slice(3, 9), slice(2, 99), slice(4, 4), slice(0, 15, 6)):
        assert np.array_equal(embeddings.take("test", LAYERS, rows), whole[rows])


@pytest.mark.parametrize("rows", [[3, 2], [3, 3], [-1, 2], [0, 90]])
def test_rows_that_do_not_ascend_within_the_split_are_refused(
    embeddings: Embeddings, rows: list[int]
) -> None:
    with pytest.raises(UserError, match=r"^rows: expected distinct ascending numbers from 0 to 89$"):
        embeddings.take("train", LAYERS, np.array(rows))


def test_an_unknown_layer_is_refused(embeddings: Embeddings) -> None:
    with pytest.raises(UserError, match=r"^layers=block9: expected some of block3, block5$"):
        next(embeddings.blocks("train", ["block9"], 10))


@pytest.fixture
def read(embeddings: Embeddings, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """First row, and the one after the last, of each read from the file, once its digests are proved."""
    embeddings.prove("train", LAYERS)
    noted: list[tuple[int, int]] = []
    block = Part._block

    def noting(self: Part, item: Any, name: str, start: int, stop: int) -> Any:
        noted.append((start, stop))
        return block(self, item, name, start, stop)

    monkeypatch.setattr(Part, "_block", noting)
    return noted


def test_chunks_without_a_wanted_row_are_not_read(
    embeddings: Embeddings, read: list[tuple[int, int]]
) -> None:
    embeddings.take("train", ["block3"], np.array([1, 2, 5, 40, 41, 88]))
    assert read == [(1, 6), (40, 42), (88, 89)]
    read.clear()
    embeddings.take("train", ["block5"], np.array([1, 9]))
    assert read == [(1, 2), (9, 10)], "not even a single one between two"


def test_no_more_is_read_at_a_time_than_a_block(embeddings: Embeddings, read: list[tuple[int, int]]) -> None:
    embeddings.take("train", ["block3"], slice(3, 21))
    assert read == [(3, 8), (8, 16), (16, 21)]


class TestProof:
    def test_damage_is_told_before_a_block_is_handed_out(self, embeddings: Embeddings) -> None:
        with h5py.File(embeddings.path, "r+") as file:
            file["train/block3"][89] = 0
        for read in (
            embeddings.blocks("train", LAYERS, 10),
            embeddings.take_each("train", LAYERS, [slice(9)]),
        ):
            with pytest.raises(Damaged, match="damaged in train/block3; compute it again"):
                next(read)
        with pytest.raises(Damaged, match="damaged in train/block3"):
            embeddings.take("train", LAYERS, np.arange(3))

    def test_it_is_paid_once_for_each_layer(
        self, embeddings: Embeddings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        proved: list[str] = []
        check = Part.check

        def noting(self: Part, name: str, *more: Any) -> None:
            proved.append(name)
            check(self, name, *more)

        monkeypatch.setattr(Part, "check", noting)
        for _ in range(3):
            list(embeddings.blocks("train", ["block3"], 10))
            embeddings.take("train", LAYERS, np.arange(9))
        assert proved == ["train/block3", "train/block5"]
        embeddings.matrix("test", LAYERS)
        embeddings.take("test", LAYERS, np.arange(9))
        assert sorted(proved[2:]) == ["test/block3", "test/block5"], "what was read whole is proved"

    def test_it_is_paid_again_where_the_file_has_changed(self, embeddings: Embeddings) -> None:
        embeddings.prove("train", LAYERS)
        with h5py.File(embeddings.path, "r+") as file:
            file["train/block5"][7] = 0
        with pytest.raises(Damaged, match="damaged in train/block5"):
            embeddings.take("train", LAYERS, np.arange(3))


class TestReadingAhead:
    def test_the_next_block_is_read_while_one_is_in_use(
        self, embeddings: Embeddings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun = [threading.Event() for _ in range(9)]
        take = Embeddings._take

        def noting(self: Embeddings, split: str, layers: Any, rows: slice) -> Any:
            begun[rows.start // 10].set()
            return take(self, split, layers, rows)

        monkeypatch.setattr(Embeddings, "_take", noting)
        for start, _ in embeddings.blocks("train", LAYERS, 10):
            number = start // 10
            assert all(event.wait(10) for event in begun[number + 1 : number + 2])
            assert not any(event.is_set() for event in begun[number + 2 :]), "one ahead, and no more"

    def test_one_that_is_left_early_leaves_no_thread(self, embeddings: Embeddings) -> None:
        before = threading.active_count()
        for _ in embeddings.blocks("train", LAYERS, 10):
            break
        gc.collect()
        assert threading.active_count() == before

    def test_three_blocks_are_in_memory_at_most(
        self, make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(part, "BLOCK_BYTES", 1 << 16)
        monkeypatch.setattr(assembly, "CHUNK", 2)
        width = 5_000
        widths = {"block5": width}
        dataset = Folder(make_folder({"train": 30, "test": 5}))
        store = EmbeddingStore(tmp_path / "wide", dataset, SPEC | {"layers": ["block5"]}, widths)
        with store.lock(), store.assembly() as made:
            for shard in store.shards:
                made.add(shard, {"block5": np.ones((shard.rows, width), np.float32)})
            wide = store.commit(made, {})
        wide.prove("train", ["block5"])
        rows = 10
        tracemalloc.start()
        try:
            for _ in wide.blocks("train", ["block5"], rows):
                pass
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 4 * rows * width * 4, "a fourth block would not fit"
