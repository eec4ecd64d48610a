"""The loop of stage one: read, embed and write side by side, shard by shard."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from features.datasets import SPLITS, Dataset
from features.extractor import VGG16
from features.progress import progress
from features.store import EmbeddingStore, Shard


def extract(dataset: Dataset, extractor: VGG16, store: EmbeddingStore, todo: list[Shard]) -> None:
    """Embed every row of ``todo`` into ``store``; the caller holds the store's lock.

    While the network works on one shard, the next one's images are read and the last one's
    vectors written. An interruption leaves the finished shards.
    """
    if not todo:
        return
    total = sum(len(dataset.labels(split)) for split in SPLITS)
    left = sum(shard.stop - shard.start for shard in todo)

    def read(shard: Shard) -> NDArray[np.uint8]:
        return dataset.images(shard.split, shard.start, shard.stop, extractor.image_size)

    with (
        ThreadPoolExecutor(1) as reader,
        ThreadPoolExecutor(1) as writer,
        progress(total, "embed", "img", done=total - left) as bar,
    ):
        ahead = reader.submit(read, todo[0])
        written: Future[None] | None = None
        for number, shard in enumerate(todo):
            images = ahead.result()
            if number + 1 < len(todo):
                ahead = reader.submit(read, todo[number + 1])
            vectors = extractor.embed(images, bar.update)
            if written is not None:
                written.result()
            written = writer.submit(store.put, shard, vectors)
        if written is not None:
            written.result()
