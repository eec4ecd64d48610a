"""The executor contract, and the worker that embeds shards."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from features.backbones.extractor import Extractor
from features.cache.shards import Shard, ShardFolder, Vectors
from features.datasets.base import Dataset, Images
from features.errors import UserError

READ = 25  # images read between two checks for a stop
STAGES = 3  # shards in progress per worker: being read, embedded, written

Advance = Callable[[int], object]


class Executor(Protocol):
    """Embeds the missing shards of a cache."""

    def prepare(self, extractor: Extractor) -> None:
        """Build the network and check other requirements; called before :meth:`embed`.

        Raises
        ------
        UserError
            A requirement is missing.
        """

    def embed(
        self, dataset: Dataset, extractor: Extractor, folder: ShardFolder, todo: list[Shard], advance: Advance
    ) -> Generator[Shard]:
        """Embed each shard of ``todo``, write it to ``folder``, and yield it once written, in any order.

        If the generator is closed early, for instance by Ctrl-C, finished shards remain and all workers stop.

        Parameters
        ----------
        dataset : the labelled images.
        extractor : the network, with its precision resolved.
        folder : of the shards; the caller holds its lock.
        todo : the shards to embed.
        advance : called with the number of images embedded since the last call.

        Raises
        ------
        UserError
            As :meth:`Worker.embed`; finished shards remain.
        """


class Worker:
    """Embeds shards in a pipeline: while one is embedded, the next is read and the previous one is written.

    :meth:`embed` may be called from ``STAGES`` threads. Each stage handles one shard at a time, and a shard
    stays in a stage until the next one is free, so at most two shards' images are in memory.

    Parameters
    ----------
    extractor : the network, with its precision resolved.
    folder : of the shards.
    """

    def __init__(self, extractor: Extractor, folder: ShardFolder) -> None:
        self._extractor = extractor
        self._folder = folder
        self._reading, self._embedding, self._writing = (threading.Lock() for _ in range(STAGES))
        self._stopped = threading.Event()

    def embed(self, shard: Shard, images: Images, advance: Advance | None = None) -> None:
        """Read the images of a shard, embed them, check that the vectors are finite, and write them.

        Parameters
        ----------
        shard : the rows.
        images : reads images, numbered from the shard's first row.
        advance : called after each batch with its number of images.

        Raises
        ------
        UserError
            An image cannot be read, a vector is not finite, or the disk is full.
        CancelledError
            :meth:`stop` was called.
        """

        def embedded(count: int) -> None:
            self._go_on()
            if advance is not None:
                advance(count)

        stage = self._enter(self._reading)
        try:
            pixels = self._read(shard, images)
            stage = self._enter(self._embedding, leave=stage)
            started = time.perf_counter()
            vectors = self._extractor.embed(pixels, embedded)
            seconds = time.perf_counter() - started
            del pixels
            stage = self._enter(self._writing, leave=stage)
            _refuse_overflow(vectors, self._extractor.precision)
            self._folder.put(shard, vectors, seconds)
        finally:
            stage.release()

    def stop(self) -> None:
        """Cancel shards that are being read or embedded; those being written are finished."""
        self._stopped.set()

    def _read(self, shard: Shard, images: Images) -> NDArray[np.uint8]:
        size = self._extractor.image_size
        pixels = np.empty((shard.rows, size, size, 3), np.uint8)
        for start in range(0, shard.rows, READ):
            self._go_on()
            stop = min(start + READ, shard.rows)
            pixels[start:stop] = images(start, stop)
        return pixels

    def _go_on(self) -> None:
        if self._stopped.is_set():
            raise CancelledError

    @staticmethod
    def _enter(stage: threading.Lock, leave: threading.Lock | None = None) -> threading.Lock:
        stage.acquire()
        if leave is not None:
            leave.release()
        return stage


def _refuse_overflow(vectors: Vectors, precision: str) -> None:
    """Refuse vectors with NaN or infinity."""
    if not all(np.isfinite(array).all() for array in vectors.values()):
        raise UserError(
            f"the network produces numbers beyond the range of {precision} for these images, or its "
            "weights are damaged; give precision=float32, or other weights="
        )
