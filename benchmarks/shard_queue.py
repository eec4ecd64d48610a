"""Simulation of the queue of shards: time and wasted work by number of workers and shard size.

    .venv/bin/python benchmarks/shard_queue.py                    # the table of docs/scaling.md
    .venv/bin/python benchmarks/shard_queue.py --preempted 2      # nodes are preempted every two hours

Scheduling follows ``features/executors/ray.py``, with its constants: a worker holds up to three shards and
embeds one at a time; the shards of a dead worker return to the front of the queue; when the queue is empty, a
shard that takes twice the median is repeated by an idle worker. Random events (seeded) are slow shards, dying
processes, and nodes that are preempted and come back; they are independent, which failures of a real cluster
may not be. The driver handles one event at a time.

*efficiency*: share of the workers' total time in the pass that was spent on shards that were used.
*wasted*: share of the embedding time that was lost with dead workers or spent on repeated shards. Means of
seeds. Prints a table.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import inf
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from features.executors.ray import RECENT, STRAGGLER, prefetch

HOUR = 3600.0
WORKERS, ROWS = (10, 100, 1000), (100, 250, 1_000, 4_000, 16_000)


@dataclass(frozen=True)
class Conditions:
    """Parameters of the simulation, in seconds and per worker.

    Attributes
    ----------
    image : to embed an image.
    start : to start a worker: packages, weights, first batch.
    driver, row : of the driver, per shard and per row of it.
    spread : standard deviation of the logarithm of a shard's time.
    slow, slower : share of slow shards, and the factor by which they are slower.
    died : mean time until a process dies; it is replaced at once.
    preempted, away : mean time until a node is preempted, and until it is back.
    """

    image: float = 0.034
    start: float = 30.0
    driver: float = 0.0
    row: float = 0.0
    spread: float = 0.0
    slow: float = 0.0
    slower: float = 5.0
    died: float = inf
    preempted: float = inf
    away: float = 600.0


@dataclass
class Simulated:
    """A worker: its shards with the time of submission; the first one is being embedded."""

    ready: bool = False
    life: int = 0  # number of deaths: events of an earlier life are ignored
    since: float = 0.0  # when it became ready or finished its last shard
    shards: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """Seconds of a pass, useful and wasted seconds of embedding, and most deaths over one shard."""

    seconds: float
    useful: float
    wasted: float
    deaths: int


class Pass:
    """One pass over shards ``0`` to ``shards - 1``, of ``rows`` images each.

    Parameters
    ----------
    shards, rows, workers : number of shards, rows per shard, and workers.
    conditions : parameters of the simulation.
    seed : of random events.
    """

    def __init__(self, shards: int, rows: int, workers: int, conditions: Conditions, seed: int = 0) -> None:
        self._conditions, self._rows = conditions, rows
        self._chance = random.Random(seed)
        self._pool = [Simulated() for _ in range(workers)]
        self._queue = deque(range(shards))
        self._left, self._todo = set(range(shards)), set(range(shards))  # for the driver; to be embedded
        self._durations = deque[float](maxlen=RECENT)
        self._failures = Counter[int]()
        self._events: list[tuple[float, int, str, int, int, int]] = []
        self._numbers = count()
        self._now = self._driver_free = self._useful = self._wasted = 0.0
        self._look_at = inf  # when the driver next looks for late shards

    def run(self) -> Outcome:
        """Simulate from the start of the workers to the last shard."""
        for number in range(len(self._pool)):
            self._comes(number)
        while self._left:
            self._now, _, what, number, life, shard = heappop(self._events)
            if what in ("look", "told") or life == self._pool[number].life:
                getattr(self, f"_{what}")(number, shard)
        for worker in self._pool:  # shards in progress were repeated elsewhere
            self._wasted += self._now - self._begun(worker) if worker.shards else 0
        return Outcome(self._now, self._useful, self._wasted, max(self._failures.values(), default=0))

    def _later(self, seconds: float, what: str, number: int = -1, shard: int = -1) -> None:
        life = self._pool[number].life
        heappush(self._events, (self._now + seconds, next(self._numbers), what, number, life, shard))

    def _comes(self, number: int, _: int = -1) -> None:
        """A worker starts; draw the time of its end."""
        self._later(self._conditions.start, "ready", number)
        for what, mean in (("dies", self._conditions.died), ("preempted", self._conditions.preempted)):
            if mean < inf:
                self._later(self._chance.expovariate(1 / mean), what, number)

    def _ready(self, number: int, _: int) -> None:
        worker = self._pool[number]
        worker.ready, worker.since = True, self._now
        self._hand_out([number])

    def _embedded(self, number: int, shard: int) -> None:
        worker = self._pool[number]
        seconds = self._now - self._begun(worker)
        if shard in self._todo:
            self._todo.remove(shard)
            self._useful += seconds
        else:
            self._wasted += seconds
        self._durations.append(seconds)
        del worker.shards[shard]
        worker.since = self._now
        self._embed(number)
        work = self._conditions.driver + self._conditions.row * self._rows
        self._driver_free = max(self._driver_free, self._now) + work
        self._later(self._driver_free - self._now, "told", number, shard)

    def _told(self, number: int, shard: int) -> None:
        self._left.discard(shard)
        self._hand_out([number])

    def _dies(self, number: int, _: int) -> None:
        self._failures.update(shard for shard in self._pool[number].shards if shard in self._todo)
        self._lose(number, 0.0)

    def _preempted(self, number: int, _: int) -> None:
        self._lose(number, self._chance.expovariate(1 / self._conditions.away))

    def _lose(self, number: int, away: float) -> None:
        worker = self._pool[number]
        if worker.shards:
            self._wasted += self._now - self._begun(worker)
        lost, worker.shards = list(worker.shards), {}
        worker.ready, worker.life = False, worker.life + 1
        for shard in reversed(lost):
            if shard in self._todo and not any(shard in other.shards for other in self._pool):
                self._queue.appendleft(shard)
        self._later(away, "comes", number)
        self._hand_out(range(len(self._pool)))

    def _hand_out(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            worker = self._pool[number]
            while (
                worker.ready
                and self._queue
                and len(worker.shards) < prefetch(len(self._queue), len(self._pool))
            ):
                self._submit(number, self._queue.popleft())
        if not self._queue and self._durations:
            self._back_up()

    def _look(self, _: int, __: int) -> None:
        self._look_at = inf
        self._hand_out([])

    def _back_up(self) -> None:
        """Repeat late shards on idle workers; if none is late yet, check again when one is."""
        idle = [number for number, worker in enumerate(self._pool) if worker.ready and not worker.shards]
        if not idle:
            return
        held = Counter(shard for worker in self._pool for shard in worker.shards)
        limit = STRAGGLER * statistics.median(self._durations)
        alone = sorted(
            (max(submitted, worker.since), shard)
            for worker in self._pool
            for shard, submitted in worker.shards.items()
            if held[shard] == 1 and shard in self._todo
        )
        for since, shard in alone:
            if not idle:
                return
            if self._now < since + limit:
                if since + limit < self._look_at:
                    self._look_at = since + limit
                    self._later(self._look_at - self._now, "look")
                return
            self._submit(idle.pop(), shard)

    def _submit(self, number: int, shard: int) -> None:
        worker = self._pool[number]
        worker.shards[shard] = self._now
        if len(worker.shards) == 1:
            self._embed(number)

    def _embed(self, number: int) -> None:
        """Start embedding a worker's first shard, if it has any."""
        for shard in self._pool[number].shards:
            seconds = self._conditions.image * self._rows
            seconds *= self._chance.lognormvariate(0, self._conditions.spread)
            if self._chance.random() < self._conditions.slow:
                seconds *= self._conditions.slower
            self._later(seconds, "embedded", number, shard)
            break

    @staticmethod
    def _begun(worker: Simulated) -> float:
        return max(worker.since, next(iter(worker.shards.values())))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual = Conditions()
    parser.add_argument("--images", type=int, default=10_000_000)
    parser.add_argument("--image", type=float, default=usual.image, help="seconds a worker needs for one")
    parser.add_argument("--start", type=float, default=usual.start, help="seconds until a worker begins")
    parser.add_argument("--driver", type=float, default=2.0, help="ms of the driver for a shard")
    parser.add_argument("--row", type=float, default=10.0, help="µs of the driver for a row of it")
    parser.add_argument("--spread", type=float, default=0.1, help="of a shard's logarithmic seconds")
    parser.add_argument("--slow", type=float, default=0.01, help="share of shards that take longer")
    parser.add_argument("--slower", type=float, default=usual.slower, help="times as long")
    parser.add_argument("--died", type=float, default=1_000.0, help="mean hours until a process dies")
    parser.add_argument("--preempted", type=float, default=inf, help="mean hours until a node is taken away")
    parser.add_argument("--away", type=float, default=10.0, help="mean minutes until it is there again")
    parser.add_argument("--workers", type=int, action="append", help="several times: 10, 100 and 1,000")
    parser.add_argument("--rows", type=int, action="append", help="several times: 100 to 16,000")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    conditions = Conditions(
        image=args.image,
        start=args.start,
        driver=args.driver / 1e3,
        row=args.row / 1e6,
        spread=args.spread,
        slow=args.slow,
        slower=args.slower,
        died=HOUR * args.died,
        preempted=HOUR * args.preempted,
        away=60 * args.away,
    )
    print("| workers | rows of a shard | shards | hours | efficiency | wasted | deaths over one shard |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for workers in args.workers or WORKERS:
        for rows in args.rows or ROWS:
            shards = -(-args.images // rows)
            passes = [Pass(shards, rows, workers, conditions, seed).run() for seed in range(args.seeds)]
            seconds = statistics.fmean(each.seconds for each in passes)
            wasted = statistics.fmean(each.wasted / (each.wasted + each.useful) for each in passes)
            share = statistics.fmean(each.useful / each.seconds / workers for each in passes)
            most = max(each.deaths for each in passes)
            cells = [f"{workers:,}", f"{rows:,}", f"{shards:,}", f"{seconds / HOUR:.2f}", f"{share:.3f}"]
            print(f"| {' | '.join([*cells, f'{100 * wasted:.2f}%', f'{most}'])} |", flush=True)


if __name__ == "__main__":
    main()
