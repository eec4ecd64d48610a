"""Shards embedded in this process: the default."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor as Pool
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from features.backbones.extractor import Extractor
from features.cache.shards import Shard, ShardFolder
from features.datasets.base import Dataset
from features.executors.base import STAGES, Advance, Worker

S = TypeVar("S")
T = TypeVar("T")


class Local:
    """One worker in this process; shards are yielded in the order of ``todo``."""

    def prepare(self, extractor: Extractor) -> None:
        """As :meth:`Executor.prepare` says."""
        extractor.prepare()

    def embed(
        self, dataset: Dataset, extractor: Extractor, folder: ShardFolder, todo: list[Shard], advance: Advance
    ) -> Generator[Shard]:
        """As :meth:`Executor.embed` says."""
        worker = Worker(extractor, folder)

        def embed(shard: Shard) -> Shard:
            def images(start: int, stop: int) -> NDArray[np.uint8]:
                first = shard.start
                return dataset.images(shard.split, first + start, first + stop, extractor.image_size)

            worker.embed(shard, images, advance)
            return shard

        with ThreadPoolExecutor(STAGES) as pool:
            try:
                yield from read_ahead(pool, embed, todo, STAGES)
            finally:
                worker.stop()
                pool.shutdown(cancel_futures=True)


def read_ahead(pool: Pool, read: Callable[[S], T], parts: Iterable[S], at_once: int = 2) -> Iterator[T]:
    """``read(part)`` for each part in turn, with the next ones under way in ``pool`` meanwhile."""
    waiting: deque[Future[T]] = deque()
    for part in parts:
        waiting.append(pool.submit(read, part))
        if len(waiting) == at_once:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
