"""Rows in temporary files come back as they were, in blocks or in random order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from features.errors import UserError
from models.heads.blocks import Blocks, in_blocks
from models.heads.spool import PARTS, Scattered, Spool

ROWS, WIDTH = 1_003, 6


class ByClass(Blocks):
    """Rows that lie class by class, each with its number in its first column."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.shape, self.memory = folder, (ROWS, WIDTH), 0
        self.rows = np.random.default_rng(0).normal(size=self.shape).astype(np.float32)
        self.rows[:, 0] = np.arange(ROWS)
        self.codes = np.arange(ROWS) * 5 // ROWS

    def __iter__(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        for start in range(0, ROWS, 70):
            yield slice(start, min(start + 70, ROWS)), self.rows[start : start + 70]


@pytest.fixture
def by_class(tmp_path: Path) -> ByClass:
    return ByClass(tmp_path)


def test_a_spool_gives_back_what_was_added(by_class: ByClass) -> None:
    spool = Spool(by_class.folder, by_class.shape, 5_000)
    for _, block in by_class:
        spool.add(block)
    for _ in range(2):
        places, blocks = zip(*in_blocks(spool), strict=True)
        assert np.array_equal(np.concatenate(blocks), by_class.rows)
        assert [place.start for place in places[1:]] == [place.stop for place in places[:-1]]
        assert max(block.nbytes for block in blocks) <= 5_000 / 16
    assert spool.passes == 2
    assert list(by_class.folder.iterdir()) == []


class TestScattered:
    MEMORY = 8_000

    def test_an_epoch_has_every_row_once_with_its_number(self, by_class: ByClass) -> None:
        scattered = Scattered(by_class, self.MEMORY)
        for seed in (0, 1):
            order = np.random.default_rng(seed).permutation(ROWS)
            numbers, rows = zip(*scattered.in_order(order, 13), strict=True)
            assert np.array_equal(np.concatenate(rows)[:, 0], np.concatenate(numbers))
            assert np.array_equal(np.sort(np.concatenate(numbers)), np.arange(ROWS))
            assert max(map(len, rows)) <= 13

    def test_one_order_gives_one_epoch_and_another_gives_another(self, by_class: ByClass) -> None:
        def numbers(seed: int) -> NDArray[np.int64]:
            order = np.random.default_rng(seed).permutation(ROWS)
            return np.concatenate([rows for rows, _ in Scattered(by_class, self.MEMORY).in_order(order, 50)])

        assert np.array_equal(numbers(0), numbers(0))
        assert (numbers(0) != numbers(1)).mean() > 0.9

    def test_parts_fit_into_the_memory_and_each_has_all_classes(self, by_class: ByClass) -> None:
        scattered = Scattered(by_class, self.MEMORY)
        assert len(scattered._rows) > 5
        for rows in scattered._rows:
            assert 4 * WIDTH * len(rows) <= self.MEMORY / PARTS + 4 * WIDTH
            shares = np.bincount(by_class.codes[rows], minlength=5) / len(rows)
            assert shares.min() > 0.05

    def test_rows_of_a_part_come_as_in_the_order(self, by_class: ByClass) -> None:
        order = np.random.default_rng(3).permutation(ROWS)
        scattered = Scattered(by_class, 4 * ROWS * WIDTH * PARTS)
        numbers = np.concatenate([rows for rows, _ in scattered.in_order(order, 100)])
        assert np.array_equal(numbers, order), "one part holds all: an epoch as in memory"

    def test_no_room_is_told(self, by_class: ByClass, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("", (), {"free": 100}))
        with pytest.raises(
            UserError, match=r"not enough disk space in .* a copy of 1,003 rows: 0.0 GB needed"
        ):
            Scattered(by_class, self.MEMORY)
