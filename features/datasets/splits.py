"""Reproducible stratified samples of rows."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def stratified(labels: NDArray[np.int64], count: int, key: str) -> NDArray[np.int64]:
    """A stratified random sample of ``count`` rows.

    The sample depends on ``labels`` and ``key`` alone. Samples with one key are nested: up to rounding
    between classes, a smaller sample is a subset of a larger one. The random numbers are the raw stream
    of PCG64, which NumPy keeps stable between versions, unlike the methods of ``Generator``.

    Parameters
    ----------
    labels : (n,) class numbers.
    count : from the number of classes to n; every class gets at least one row.
    key : the purpose of the sample; different keys draw independently.

    Returns
    -------
    ndarray of shape (count,), int64
        Row numbers, ascending.

    Raises
    ------
    ValueError
        ``count`` is out of range.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    if not len(classes) <= count <= len(labels):
        raise ValueError(f"count must be from {len(classes)} to {len(labels)}; got {count}")
    return pick(labels, _shares(sizes, count), key)


def pick(labels: NDArray[np.int64], counts: NDArray[np.int64], key: str) -> NDArray[np.int64]:
    """Draw ``counts[i]`` rows of the i-th class as :func:`stratified` does; row numbers, ascending."""
    _, inverse, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest())
    ticket = np.random.PCG64(seed).random_raw(len(labels))
    order = np.lexsort((ticket, inverse))  # by class, then in random order
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    rank = np.empty(len(labels), dtype=np.int64)  # of each row within its class
    rank[order] = np.arange(len(labels)) - np.repeat(starts, sizes)
    return np.flatnonzero(rank < counts[inverse])


def _shares(sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Apportion ``count`` in proportion to ``sizes`` by the largest remainder method, at least one each."""
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
