"""Stratified samples of rows that stay the same on every machine and in every year."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def stratified(labels: NDArray[np.int64], count: int, key: str) -> NDArray[np.int64]:
    """``count`` rows in random order of choice, with each class in its share; sorted.

    The choice depends on ``labels`` and ``key`` alone. Samples of one key are nested: the rows of
    a smaller ``count`` are (up to rounding between classes) among those of a larger one.
    Randomness is the raw stream of PCG64, which NumPy keeps stable between versions, where the
    methods of its Generator may change.

    Parameters
    ----------
    labels : (n,) class numbers.
    count : at most n, and at least the number of classes: every class gets a row.
    key : names the purpose, so that two purposes draw independently.

    Returns
    -------
    (count,) int64 row numbers, ascending.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    if not len(classes) <= count <= len(labels):
        raise ValueError(f"count must be from {len(classes)} to {len(labels)}; got {count}")
    return pick(labels, _shares(sizes, count), key)


def pick(labels: NDArray[np.int64], counts: NDArray[np.int64], key: str) -> NDArray[np.int64]:
    """``counts`` rows of each class (in ascending order of class), drawn as by :func:`stratified`."""
    _, inverse, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest())
    ticket = np.random.PCG64(seed).random_raw(len(labels))
    order = np.lexsort((ticket, inverse))  # by class, then in random order
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    rank = np.empty(len(labels), dtype=np.int64)  # place of each row within its class
    rank[order] = np.arange(len(labels)) - np.repeat(starts, sizes)
    return np.flatnonzero(rank < counts[inverse])


def _shares(sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """``count`` divided in proportion to ``sizes`` by largest remainder, at least one each."""
    exact = sizes * count / sizes.sum()
    share = np.clip(np.floor(exact).astype(np.int64), 1, sizes)
    remainder = exact - share
    while share.sum() != count:
        step = 1 if share.sum() < count else -1
        open_to = share < sizes if step > 0 else share > 1
        best = int(np.argmax(np.where(open_to, step * remainder, -np.inf)))
        share[best] += step
        remainder[best] -= step
    return np.asarray(share)
