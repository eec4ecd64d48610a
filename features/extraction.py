"""The loop of stage one: read, embed and write side by side, shard by shard."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from features.datasets import Dataset
from features.extractor import VGG16
from features.progress import progress
from features.store import Assembly, EmbeddingStore, Shard, Vectors

T = TypeVar("T")


def extract(
    dataset: Dataset, extractor: VGG16, store: EmbeddingStore, assembly: Assembly, todo: list[Shard]
) -> None:
    """Embed every row of ``todo``, keep each as a shard, and pass all shards on to ``assembly``.

    The caller holds the store's lock. While the network works on one shard, another thread reads
    the next one's images and a third writes the last one's vectors. An interruption leaves the
    finished shards.
    """

    def read(shard: Shard) -> NDArray[np.uint8]:
        return dataset.images(shard.split, shard.start, shard.stop, extractor.image_size)

    def write(shard: Shard, vectors: Vectors | None) -> None:
        if vectors is not None:
            store.put(shard, vectors)
        kept = store.read(shard) if vectors is None else vectors
        assert kept is not None, "missing() has just verified it, under the lock"
        assembly.add(shard, kept)

    rows = sum(shard.stop - shard.start for shard in store.shards)
    left = sum(shard.stop - shard.start for shard in todo)
    with (
        ThreadPoolExecutor(1) as reader,
        ThreadPoolExecutor(1) as writer,
        progress(rows, "embed", "img", done=rows - left, delay=0 if todo else 1) as bar,
    ):
        images = _ahead(reader, read, todo)
        written: Future[None] | None = None
        for shard in store.shards:
            vectors = extractor.embed(next(images), bar.update) if shard in todo else None
            if written is not None:
                written.result()
            written = writer.submit(write, shard, vectors)
        if written is not None:
            written.result()


def _ahead(pool: Executor, read: Callable[[Shard], T], shards: list[Shard]) -> Iterator[T]:
    """``read(shard)`` for each shard in turn, with the next one under way meanwhile."""
    waiting: deque[Future[T]] = deque()
    for shard in shards:
        waiting.append(pool.submit(read, shard))
        if len(waiting) > 1:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
