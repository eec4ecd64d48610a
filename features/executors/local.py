"""The default executor: embeds shards in this process."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

from features.ahead import read_ahead
from features.backbones.extractor import Extractor
from features.cache.shards import Shard, ShardFolder
from features.datasets.base import Dataset
from features.executors.base import STAGES, Advance, Worker


class Local:
    """One worker in this process; yields shards in the order of ``todo``."""

    def prepare(self, extractor: Extractor) -> None:
        """As :meth:`Executor.prepare`."""
        extractor.prepare()

    def embed(
        self, dataset: Dataset, extractor: Extractor, folder: ShardFolder, todo: list[Shard], advance: Advance
    ) -> Generator[Shard]:
        """As :meth:`Executor.embed`."""
        worker = Worker(extractor, folder)

        def embed(shard: Shard) -> Shard:
            images = dataset.reader(shard.split, shard.start, shard.stop, extractor.image_size)
            worker.embed(shard, images, advance)
            return shard

        with ThreadPoolExecutor(STAGES) as pool:
            try:
                yield from read_ahead(pool, embed, todo, STAGES)
            finally:
                worker.stop()
                pool.shutdown(cancel_futures=True)
