"""The real command line on Ray with a stand-in for the network, for tests of nodes that differ or die.

``python -c 'from tests.stand_in_ray import run; run()' ARGUMENT...``. What a node's workers do is said by the
variable ``HEADROOM_PLAN`` of that node's processes: nothing, or

- ``slow=S``: S seconds for each shard;
- ``other-version``, ``other-precision``, ``other-folder``: not what the pass expects;
- ``die``: SIGKILL for whoever has written the second shard, before it is renamed;
- ``freeze=PATH``: with its first shard written and not yet renamed, the process stops itself by SIGSTOP; its
  number and the shard's name are in PATH.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from features.backbones.extractor import Extractor
from features.cache import store
from features.executors import ray as executor
from pipeline.__main__ import main
from tests.stand_in import SHARDS, embed


class StandIn(executor.RemoteWorker):
    """A worker of a node with a plan."""

    def __init__(self, cores: int) -> None:
        super().__init__(cores)
        self._plan, _, self._value = os.environ.get("HEADROOM_PLAN", "").partition("=")
        Extractor.embed = self._embed  # type: ignore[method-assign, assignment]
        if self._plan == "other-version":
            here = executor._versions()
            executor._versions = lambda: here | {"numpy": "1.0"}
        if self._plan == "freeze":
            self._freeze()
        if self._plan == "die":
            self._die()

    def start(self, spec: executor.WorkerSpec) -> tuple[int, str | None]:
        if self._plan == "other-folder":
            token = Path("/nowhere") / spec.token.name
            spec = replace(spec, token=token)
        return super().start(spec)

    def _embed(self, images: Any, advance: Any = None) -> Any:
        if self._plan == "slow" and len(images) > executor.SAMPLE:
            time.sleep(float(self._value))
        vectors = embed(self._network, images)
        off = 1.001 if self._plan == "other-precision" else 1.0
        return {layer: array * array.dtype.type(off) for layer, array in vectors.items()}

    @property
    def _network(self) -> Any:
        return Extractor("block3,block5", precision="float32")

    def _die(self) -> None:
        replace_ = os.replace

        def killed(source: Any, target: Any) -> None:
            if str(target).endswith("train-000000020.shard"):
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(1)
            replace_(source, target)

        os.replace = killed  # type: ignore[assignment]

    def _freeze(self) -> None:
        replace_, note = os.replace, Path(self._value)

        def frozen(source: Any, target: Any) -> None:
            if str(target).endswith(".shard") and not note.exists():
                note.write_text(f"{os.getpid()} {Path(target).name}")
                os.kill(os.getpid(), signal.SIGSTOP)
                time.sleep(1)  # within which the signal comes to this thread
            replace_(source, target)

        os.replace = frozen  # type: ignore[assignment]


def run() -> None:
    """As ``python -m pipeline``."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    Extractor.embed = embed  # type: ignore[method-assign]
    store.SHARDS = SHARDS
    executor.RemoteWorker = StandIn  # type: ignore[misc]
    executor.REFRESH = 1.0
    sys.exit(main(sys.argv[1:]))
