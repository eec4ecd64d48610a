"""The real command line with a stand-in for the network, for tests that kill it.

``python -m tests.stand_in PLAN ARGUMENT...`` where PLAN is ``-`` or one of

- ``kill=N``: SIGKILL instead of the Nth operation that makes something durable or visible;
- ``full=N``: from the Nth write, flush, fsync or close of a shard on, the disk is full;
- ``size=N``: no file may grow beyond N bytes;
- ``pause=S``, ``slow=S``: sleep after every shard, before every image;
- ``interrupt=N``: Ctrl-C within the Nth write of the finished file.

Prints the name of each shard it writes.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from features.backbones import extractor
from features.cache import assembly, shards, store
from features.datasets import encoded
from pipeline.__main__ import main

SHARDS = (20,)


def embed(self: Any, images: Any, advance: Any = None) -> dict[str, Any]:
    """Vectors that depend on every image and layer, without TensorFlow."""
    mean = images.reshape(len(images), -1).mean(axis=1, dtype=np.float64)
    return {
        layer: (mean[:, None] * np.arange(1, width + 1)).astype(np.float32)
        for layer, width in self.widths.items()
    }


def killing(count: int) -> None:
    """Replace each durable operation by one that counts, and kills at ``count``."""
    left = [count]

    def counted(operation: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments, **more)

        return run

    os.fsync = counted(os.fsync)
    os.replace = counted(os.replace)
    shutil.rmtree = counted(shutil.rmtree)


def full(count: int) -> None:
    """A disk that is full from its ``count``-th operation on a shard on."""
    left = [count]

    def may() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")

    class Full:
        def __init__(self, path: Any, mode: str) -> None:
            self._file = open(path, mode)  # noqa: SIM115

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()
            may()

        def write(self, part: Any) -> None:
            may()
            self._file.write(part)

        def flush(self) -> None:
            may()
            self._file.flush()

        def fileno(self) -> int:
            return self._file.fileno()

    fsync = os.fsync

    def synced(handle: int) -> None:
        may()
        fsync(handle)

    shards.open = Full  # type: ignore[attr-defined]
    os.fsync = synced


def interrupting(count: int) -> None:
    """Ctrl-C while HDF5 is writing, for the ``count``-th time."""
    left, write = [count], assembly._Disk.write

    def written(self: Any, data: Any) -> int:
        left[0] -= 1
        if left[0] == -1:
            signal.raise_signal(signal.SIGINT)
        return write(self, data)

    assembly._Disk.write = written  # type: ignore[method-assign]


def slow(seconds: float) -> None:
    """Pictures that take long to decode."""
    read = encoded.read_square

    def waited(*arguments: Any) -> Any:
        time.sleep(seconds)
        return read(*arguments)

    encoded.read_square = waited


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs behind it
    plan, _, value = sys.argv[1].partition("=")
    extractor.VGG16.embed = embed  # type: ignore[method-assign]
    store.SHARDS = SHARDS
    put = shards.ShardFolder.put

    def telling(self: Any, shard: Any, vectors: Any, seconds: float) -> None:
        put(self, shard, vectors, seconds)
        print(shard.name, flush=True)
        time.sleep(float(value) if plan == "pause" else 0)

    shards.ShardFolder.put = telling  # type: ignore[method-assign]
    if plan == "kill":
        killing(int(value))
    if plan == "full":
        full(int(value))
    if plan == "slow":
        slow(float(value))
    if plan == "interrupt":
        interrupting(int(value))
    if plan == "size":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(value), int(value)))
    sys.exit(main(sys.argv[2:]))
