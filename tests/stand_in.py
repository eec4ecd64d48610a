"""The real command line with a stand-in for the network, for tests that kill it.

``python -m tests.stand_in PLAN ARGUMENT...`` where PLAN is ``-`` or one of

- ``kill=N``: SIGKILL instead of the Nth operation that makes something durable or visible;
- ``full=N``: from the Nth write, flush, fsync or close of a shard on, the disk is full;
- ``size=N``: no file may grow beyond N bytes;
- ``pause=S``, ``slow=S``: sleep after every shard, before every image;
- ``interrupt=N``: Ctrl-C within the Nth write of the finished file.

Prints the name of each shard it writes. ``python -m tests.stand_in`` alone serves :class:`Prepared`.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from features.backbones import extractor, vgg16
from features.backbones.base import Weights
from features.cache import assembly, shards, store
from features.datasets import encoded
from pipeline.__main__ import main
from reports.page import render

SHARDS = (20,)


def embed(self: Any, images: Any, advance: Any = None) -> dict[str, Any]:
    """Vectors that depend on every image and layer, without TensorFlow."""
    mean = images.reshape(len(images), -1).mean(axis=1, dtype=np.float64)
    return {
        layer: (mean[:, None] * np.arange(1, width + 1)).astype(np.float32)
        for layer, width in self.widths.items()
    }


def svg(figure: Any, name: str) -> str:
    """A figure of the report that was made, but is not drawn, which is most of a report's time."""
    return '<svg width="1pt"></svg>'


def png(figure: Any) -> bytes:
    """As :func:`svg`."""
    return b"not drawn"


def load(_: Any, path: str | None = None) -> Weights:
    """VGG16's weights; a file, whose digests take a moment, is read once by a process until it changes."""
    if path is None or not Path(path).is_file():
        return vgg16.load(path)
    now = Path(path).stat()
    return _read(path, now.st_ino, now.st_mtime_ns)


@lru_cache(2)
def _read(path: str, *_: int) -> Weights:
    return vgg16.load(path)


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


def run(plan: str, arguments: Sequence[str]) -> int:
    """The command line by this plan, in this process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs behind it
    plan, _, value = plan.partition("=")
    extractor.VGG16.embed = embed  # type: ignore[method-assign]
    vgg16._VGG16.load = load  # type: ignore[method-assign]
    render._svg, render._png = svg, png
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
    return main(list(arguments))


class Prepared:
    """Commands in processes of their own that need not start Python and import again, which takes seconds.

    >>> with Prepared(tmp_path) as prepared:
    ...     code, out, err = prepared("kill=3", ["features", "--dataset", "digits"])
    """

    ROOT = Path(__file__).parents[1]
    SECONDS = 60  # after which a command is killed by SIGALRM

    def __init__(self, folder: Path) -> None:
        self._out, self._err = folder / "out", folder / "err"

    def __enter__(self) -> Prepared:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.stand_in"],
            cwd=self.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()  # it ends with its input

    def __call__(self, plan: str, arguments: Sequence[str]) -> tuple[int, str, str]:
        """Exit code (of a signal: minus its number), standard output, standard error."""
        assert self._server.stdin is not None and self._server.stdout is not None
        asked = [plan, list(arguments), dict(os.environ), str(self._out), str(self._err)]
        print(json.dumps(asked), file=self._server.stdin, flush=True)
        code = int(self._server.stdout.readline())
        return code, self._out.read_text(), self._err.read_text()

    @classmethod
    def serve(cls) -> int:
        """Fork for each line of standard input, and print how the fork ended; in a fork, its exit code."""
        for module in ("pipeline.stages", "reports.page.render", "sklearn.linear_model"):
            import_module(module)
        for line in sys.stdin:
            plan, arguments, environment, out, err = json.loads(line)
            _read(arguments[arguments.index("--weights") + 1])
            child = os.fork()
            if not child:
                signal.alarm(cls.SECONDS)
                os.environ.update(environment)
                for number, path in enumerate((os.devnull, out, err)):
                    os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
                code = run(plan, arguments)
                if plan.startswith("interrupt"):  # no crash at the very end either
                    return code
                sys.stderr.flush()
                sys.stdout.flush()
                os._exit(code)  # what Python does at its end takes longer than the command
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]) if sys.argv[1:] else Prepared.serve())
