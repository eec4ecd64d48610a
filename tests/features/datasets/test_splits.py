"""A stratified sample is fair, nested, and the same for ever."""

from __future__ import annotations

import numpy as np
import pytest

from features.datasets.splits import stratified

LABELS = np.repeat(np.arange(4), [10, 20, 30, 40])


@pytest.mark.parametrize("count", [4, 10, 33, 99, 100])
def test_every_class_has_its_share(count: int) -> None:
    sizes = np.bincount(LABELS[stratified(LABELS, count, "key")])
    assert sizes.sum() == count
    assert np.all(np.abs(sizes - np.array([10, 20, 30, 40]) * count / 100) < 1.5)
    assert sizes.min() >= 1


def test_rows_are_ascending_and_distinct() -> None:
    rows = stratified(LABELS, 50, "key")
    assert np.all(np.diff(rows) > 0)


def test_the_choice_is_spread_over_a_class_and_no_tail_slice() -> None:
    labels = np.zeros(1000, dtype=np.int64)
    assert 400 < stratified(labels, 100, "key").mean() < 600


def test_smaller_samples_are_nested_in_larger_ones() -> None:
    few, many = stratified(LABELS, 20, "key"), stratified(LABELS, 60, "key")
    assert set(few) <= set(many)


def test_keys_draw_independently() -> None:
    assert not np.array_equal(stratified(LABELS, 50, "one"), stratified(LABELS, 50, "other"))


def test_the_choice_never_changes() -> None:
    """Golden values: a change here would move every validation split in the world."""
    assert stratified(np.arange(20) % 2, 6, "golden").tolist() == [5, 6, 9, 15, 16, 18]


@pytest.mark.parametrize("count", [3, 101])
def test_impossible_counts_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="count must be from 4 to 100"):
        stratified(LABELS, count, "key")
