"""Embedding a shard, and what maps that over the missing ones."""

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

READ = 25  # images read between two looks at whether to stop
STAGES = 3  # shards under way in one worker: read, embedded, written

Advance = Callable[[int], object]


class Executor(Protocol):
    """Who embeds the missing shards."""

    def prepare(self, extractor: Extractor) -> None:
        """Build the network, and find what else is needed: called before :meth:`embed`.

        Raises
        ------
        UserError
            Something is not there.
        """

    def embed(
        self, dataset: Dataset, extractor: Extractor, folder: ShardFolder, todo: list[Shard], advance: Advance
    ) -> Generator[Shard]:
        """Embed each shard of ``todo``, keep it in ``folder``, and yield it once it is kept, in any order.

        The caller holds the lock of ``folder``. ``advance`` is called with the number of images that were
        embedded since. Closed early, as by Ctrl-C, it leaves whole shards and nothing at work.

        Raises
        ------
        UserError
            As :meth:`Worker.embed` does; shards that were kept before stay.
        """


class Worker:
    """A network that embeds shards: while one is embedded, the next is read and the last is written.

    :meth:`embed` may be called from ``STAGES`` threads at once. Each stage takes one shard at a time, and no
    shard leaves a stage before the next one is free, so that at most two shards' images are in memory.

    Parameters
    ----------
    extractor : the network, its precision decided.
    folder : where the shards are kept.
    """

    def __init__(self, extractor: Extractor, folder: ShardFolder) -> None:
        self._extractor = extractor
        self._folder = folder
        self._reading, self._embedding, self._writing = (threading.Lock() for _ in range(STAGES))
        self._stopped = threading.Event()

    def embed(self, shard: Shard, images: Images, advance: Advance | None = None) -> None:
        """Read the images of a shard, embed them, prove the vectors finite and keep them.

        Parameters
        ----------
        shard : which rows.
        images : reads some of them, counted from the shard's first.
        advance : called with the number of images after each batch.

        Raises
        ------
        UserError
            An image cannot be read, the network's numbers are not finite, or the disk is full.
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
        """Let go of what is only being read or embedded; what is being written is kept."""
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
    """What is no number would be found out only by the heads."""
    if not all(np.isfinite(array).all() for array in vectors.values()):
        raise UserError(
            f"the network gives numbers beyond the range of {precision} for these images, or its weights "
            "are damaged; give precision=float32, or other weights="
        )
