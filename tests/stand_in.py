"""The real command line with a stand-in for the network, for tests that kill it.

``python -m tests.stand_in PLAN ARGUMENT...`` where PLAN is ``-``, ``kill=N`` (SIGKILL instead of the
Nth operation that makes something durable or visible), ``size=N`` (no file may grow beyond N bytes,
as on a full disk) or ``pause=S`` (sleep after every shard). Prints the name of each shard it writes.
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

from features import extractor, store
from pipeline.__main__ import main

SHARD = 20


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


if __name__ == "__main__":
    plan, _, value = sys.argv[1].partition("=")
    extractor.VGG16.embed = embed  # type: ignore[method-assign]
    store.SHARD = SHARD
    put = store.EmbeddingStore.put

    def telling(self: Any, shard: Any, vectors: Any) -> None:
        put(self, shard, vectors)
        print(shard.name, flush=True)
        time.sleep(float(value) if plan == "pause" else 0)

    store.EmbeddingStore.put = telling  # type: ignore[method-assign]
    if plan == "kill":
        killing(int(value))
    if plan == "size":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(value), int(value)))
    sys.exit(main(sys.argv[2:]))
