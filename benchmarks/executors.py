"""Overhead of executors: with the network replaced by a sleep of a second per shard, or with the network.

    .venv-ray/bin/python benchmarks/executors.py              # local, and Ray with 1, 2 and 8 workers
    .venv-ray/bin/python benchmarks/executors.py --dataset FOLDER --weights FILE --workers 1 --workers 2
    .venv/bin/python benchmarks/executors.py --assemble 60000    # assembly in the driver

Ray is started with one node on this machine and one logical core per worker. A shard has 1,000 rows. With
the sleep, a task has 1,000 paths as for a folder, no image is read, and 512 values per row are written and
synced. With ``--dataset`` images are read, decoded and embedded (VGG16, block5, one thread per worker). The
time is measured from the start of all workers to the last stored shard, without assembly; start-up is listed
separately. *efficiency*: the time of the sleeps over the measured time; with a dataset: the rate over the
number of workers times the rate of the first. *overhead*: time per shard and worker beyond the sleep.
*driver*: CPU time of this process. Medians of rounds. Prints a table.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

os.environ.update(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_USAGE_STATS_ENABLED="0")  # loopback alone
sys.path.insert(0, str(Path(__file__).parents[1]))
from features.backbones.extractor import Extractor
from features.cache.shards import Shard, ShardFolder
from features.cache.store import EmbeddingStore
from features.datasets.base import Dataset
from features.datasets.encoded import Picture, Pictures
from features.datasets.registry import open_dataset
from features.executors import ray as on_ray
from features.executors.base import Executor
from features.executors.local import Local
from features.extraction import embed_shards
from features.progress import say

SECONDS = 1.0  # of sleep per shard
STAMP = (1_000, 1_700_000_000_000_000_000)
PATH = "/shared/images/train/a-class-of-usual-length"


def sleep(self: Any, images: Any, advance: Any = None) -> dict[str, Any]:
    """Replacement of the network: sleeps and returns vectors of ones."""
    if len(images) > on_ray.SAMPLE:
        time.sleep(SECONDS)
    return {layer: np.ones((len(images), width), np.float32) for layer, width in self.widths.items()}


class SleepingWorker(on_ray.RemoteWorker):
    """A worker without a network."""

    def __init__(self, cores: int) -> None:
        super().__init__(cores)
        Extractor.embed = sleep


class Blank(Pictures):
    """Black images with paths and stamps like those of a folder."""

    def __call__(self, start: int, stop: int) -> Any:
        return np.zeros((stop - start, self.size, self.size, 3), np.uint8)


class Blanks(Dataset):
    """Black images of two classes, five in train for each in test."""

    name = source = "blanks"
    class_names = ("even", "odd")
    side = 32

    def __init__(self, count: int) -> None:
        self._counts = {"train": count - count // 6, "test": count // 6}

    def digest(self, fresh: bool = False) -> str:
        return "0" * 64

    def all_labels(self, split: str) -> Any:
        return np.arange(self._counts[split]) % 2

    def read(self, split: str, rows: Any, size: int) -> Any:
        return np.zeros((len(rows), size, size, 3), np.uint8)

    def name_of(self, split: str, row: int) -> str:
        return f"{PATH}/{split}-{row:09d}.jpg"

    def reader(self, split: str, start: int, stop: int, size: int) -> Blank:
        files = [Path(self.name_of(split, row)) for row in range(start, stop)]
        return Blank([Picture(path) for path in files], files, [STAMP] * len(files), size)


@contextmanager
def cluster(workers: int) -> Iterator[str]:
    """Start Ray with one core per worker; yields its address."""
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": workers,
            "include_dashboard": False,
            "object_store_memory": 256 << 20,
        },
    )
    try:
        yield str(made.address)
    finally:
        made.shutdown()


def measured(executor: Executor, dataset: Any, extractor: Extractor, todo: list[Shard]) -> dict[str, float]:
    """Seconds of start-up and of the pass, and CPU time of this process."""
    ready: list[tuple[float, float]] = []

    class Pool(on_ray._WorkerPool):
        def refresh(self) -> None:
            """Wait for all workers to start."""
            super().refresh()
            if not ready:
                import ray

                ray.wait([worker.started for worker in self.workers], num_returns=len(self.workers))
                ready.append((time.perf_counter(), time.process_time()))

    pool, on_ray._WorkerPool = on_ray._WorkerPool, Pool
    try:
        with tempfile.TemporaryDirectory() as scratch:
            executor.prepare(extractor)
            begun = time.perf_counter()
            if isinstance(executor, Local):
                ready.append((begun, time.process_time()))
            folder = ShardFolder(Path(scratch), "f", extractor.widths)
            with closing(executor.embed(dataset, extractor, folder, todo, lambda _: None)) as kept:
                for _ in todo:
                    next(kept)
                ended, processor = time.perf_counter(), time.process_time()
    finally:
        on_ray._WorkerPool = pool
    return {
        "start-up": ready[0][0] - begun,
        "seconds": ended - ready[0][0],
        "driver": processor - ready[0][1],
    }


def assembled(count: int) -> None:
    """Measure verification of stored shards, and assembly of the finished file."""
    dataset, extractor = Blanks(count), Extractor(precision="float32")
    chance = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir="out") as scratch:
        store = EmbeddingStore(Path(scratch), dataset, extractor.spec(), extractor.widths)
        with store.lock(), store.assembly() as assembly:
            for shard in store.shards:
                shapes = {layer: (shard.rows, width) for layer, width in extractor.widths.items()}
                store.folder.put(
                    shard, {layer: chance.random(shape, np.float32) for layer, shape in shapes.items()}
                )
            begun, processor = time.perf_counter(), time.process_time()
            todo = store.missing()
            proved = time.perf_counter()
            embed_shards(Local(), dataset, extractor, store, assembly, todo)
            store.commit(assembly, {})
            seconds, processor = time.perf_counter() - proved, time.process_time() - processor
            number, size = len(store.shards), store.path.stat().st_size
    print(f"{count:,} images, {number} shards, {size / 1e6:,.0f} MB")
    print(f"shards verified: {proved - begun:.1f} s, {size / 1e6 / (proved - begun):,.0f} MB/s")
    print(f"assembled, synced, read back: {seconds:.1f} s, {size / 1e6 / seconds:,.0f} MB/s")
    print(f"processor for both: {1e3 * processor / number:.0f} ms a shard")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, action="append", help="of Ray; several times: 1, 2 and 8")
    parser.add_argument("--shards", type=int, default=60, help="for each worker")
    parser.add_argument("--rows", type=int, default=1_000, help="of a shard")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dataset", help="embed images of this folder with the network")
    parser.add_argument("--weights")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--assemble", type=int, metavar="IMAGES", help="only: assemble so many embeddings")
    args = parser.parse_args()
    if args.assemble:
        assembled(args.assemble)
        return
    on_ray.CORES = 1
    extractor = Extractor("block5", args.image_size, precision=args.precision, weights=args.weights)
    dataset: Any = open_dataset(args.dataset) if args.dataset else Blanks(2 * args.rows * args.shards * 8)
    if args.dataset:
        dataset.digest()
    else:
        Extractor.embed = sleep
        Extractor.prepare = lambda self: None
        on_ray.RemoteWorker = SleepingWorker
    plans = [("ray", count) for count in args.workers or (1, 2, 8)]
    plans = plans if args.dataset else [("local", 1), *plans]
    seen: dict[tuple[str, int], list[dict[str, float]]] = {plan: [] for plan in plans}
    for number in range(args.rounds):
        for name, workers in plans:
            todo = [Shard("train", args.rows * i, args.rows * (i + 1)) for i in range(args.shards * workers)]
            if name == "local":
                row = measured(Local(), dataset, extractor, todo)
            else:
                with cluster(workers) as address:
                    row = measured(on_ray.Ray(address), dataset, extractor, todo)
            seen[name, workers].append(row)
            say(f"round {number + 1}: {name}, {workers}: {row}")
    titles = ["executor", "workers", "start-up, s", "s", "images a second", "efficiency"]
    titles += ["driver, ms a shard"] + ([] if args.dataset else ["overhead, ms a shard"])
    print(f"| {' | '.join(titles)} |\n|{' --- |' * len(titles)}")
    first = None
    for (name, workers), rows in seen.items():
        row = {key: statistics.median(each[key] for each in rows) for key in rows[0]}
        rate = args.rows * args.shards * workers / row["seconds"]
        first = first or rate / workers
        ideal = workers * first if args.dataset else workers * args.rows / SECONDS
        cells = [name, f"{workers}", f"{row['start-up']:.1f}", f"{row['seconds']:.1f}", f"{rate:,.0f}"]
        cells += [f"{rate / ideal:.3f}", f"{1e3 * row['driver'] / args.shards / workers:.1f}"]
        if not args.dataset:
            cells.append(f"{1e3 * (row['seconds'] / args.shards - SECONDS):.0f}")
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
