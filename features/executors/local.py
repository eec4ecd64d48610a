"""The loop of stage one: read, embed and write side by side, shard by shard."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from features.backbones.extractor import Extractor
from features.cache.assembly import Assembly, Shard
from features.cache.store import EmbeddingStore, Kept
from features.datasets.base import Dataset
from features.errors import UserError
from features.progress import progress

READ = 25  # images read between two looks at whether to stop
S = TypeVar("S")
T = TypeVar("T")


def embed_shards(
    dataset: Dataset, extractor: Extractor, store: EmbeddingStore, assembly: Assembly, todo: list[Shard]
) -> float:
    """Embed every row of ``todo``, keep each as a shard, and pass all shards on to ``assembly``.

    The caller holds the store's lock. While the network works on one shard, another thread reads
    the next one's images and a third writes the last one's vectors. An interruption leaves the
    finished shards, and does not wait for images that are only being read.

    Returns
    -------
    float
        Seconds that the network took for all shards, those of earlier passes included.

    Raises
    ------
    UserError
        An image cannot be read, the network's numbers are not finite, the disk is full, or a shard has been
        damaged meanwhile.
    """
    stop = threading.Event()

    def read(shard: Shard) -> NDArray[np.uint8]:
        size = extractor.image_size
        pixels = np.empty((shard.stop - shard.start, size, size, 3), np.uint8)
        for start in range(shard.start, shard.stop, READ):
            if stop.is_set():
                raise CancelledError
            end = min(start + READ, shard.stop)
            pixels[start - shard.start : end - shard.start] = dataset.images(shard.split, start, end, size)
        return pixels

    def write(shard: Shard, new: Kept | None) -> float:
        if new is not None:
            store.put(shard, new.vectors, new.seconds)
        kept = store.read(shard) if new is None else new
        if kept is None:
            raise UserError(f"the shard {shard.name} has been damaged meanwhile; run this again")
        assembly.add(shard, kept.vectors)
        return kept.seconds

    shards, network = store.shards, 0.0
    rows, left = (sum(shard.stop - shard.start for shard in some) for some in (shards, todo))
    with (
        ThreadPoolExecutor(1) as reader,
        ThreadPoolExecutor(1) as writer,
        progress(rows, "embed", "img", done=rows - left, delay=0 if todo else 1) as bar,
    ):
        try:
            images = read_ahead(reader, read, todo)
            written: Future[float] | None = None
            for number, shard in enumerate(shards, start=1):
                bar.set_postfix_str(f"shard {number} of {len(shards)}", refresh=False)
                new = None
                if shard in todo:
                    pixels, started = next(images), time.perf_counter()
                    new = Kept(extractor.embed(pixels, bar.update), time.perf_counter() - started)
                    _refuse_overflow(new, extractor.precision)
                if written is not None:
                    network += written.result()
                written = writer.submit(write, shard, new)
            if written is not None:
                network += written.result()
        finally:
            stop.set()
            reader.shutdown(wait=False, cancel_futures=True)
    return network


def _refuse_overflow(kept: Kept, precision: str) -> None:
    """What is no number would be found out only by the heads."""
    if not all(np.isfinite(vectors).all() for vectors in kept.vectors.values()):
        raise UserError(
            f"the network gives numbers beyond the range of {precision} for these images, or its weights "
            "are damaged; give precision=float32, or other weights="
        )


def read_ahead(pool: Executor, read: Callable[[S], T], parts: Iterable[S]) -> Iterator[T]:
    """``read(part)`` for each part in turn, with the next one under way in ``pool`` meanwhile."""
    waiting: deque[Future[T]] = deque()
    for part in parts:
        waiting.append(pool.submit(read, part))
        if len(waiting) > 1:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
