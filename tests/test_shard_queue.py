"""The simulated queue of shards: what must hold of any, and what is known beforehand of some."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import pytest

from benchmarks.shard_queue import Conditions, Outcome, Pass

EQUAL = Conditions(image=0.01, start=0)  # 100 rows: 1 s
HARD = replace(EQUAL, start=2, spread=0.3, slow=0.05, died=100, preempted=80, away=20, driver=0.01)


def run(shards: int, workers: int, conditions: Conditions, seed: int = 0) -> Outcome:
    return Pass(shards, 100, workers, conditions, seed).run()


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("shards", [1, 2, 4, 7, 24, 61])
def test_equal_shards_without_failures_take_as_many_rounds_as_they_must(shards: int, workers: int) -> None:
    outcome = run(shards, workers, EQUAL)
    assert outcome.seconds == pytest.approx(ceil(shards / workers))
    assert outcome.useful == pytest.approx(shards)
    assert outcome.wasted == 0


def test_a_driver_slower_than_its_workers_decides() -> None:
    outcome = run(100, 10, replace(EQUAL, driver=0.5))
    assert outcome.seconds == pytest.approx(1 + 100 * 0.5)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_every_shard_is_embedded_once_for_use(seed: int) -> None:
    outcome = run(200, 7, replace(HARD, spread=0, slow=0), seed)
    assert outcome.useful == pytest.approx(200)
    assert outcome.wasted > 0
    assert outcome.seconds > HARD.start + (outcome.useful + outcome.wasted) / 7


def test_one_slow_shard_at_the_end_is_done_by_an_idle_worker() -> None:
    """Of ten one takes a thousand times as long, for whoever embeds it first."""

    class OneSlow(Pass):
        slow = 1000.0

        def _embed(self, number: int) -> None:
            conditions = self._conditions
            if 9 in self._pool[number].shards:
                self._conditions = replace(conditions, image=conditions.image * self.slow)
                OneSlow.slow = 1.0
            super()._embed(number)
            self._conditions = conditions

    outcome = OneSlow(10, 100, 2, EQUAL).run()
    assert outcome.seconds == pytest.approx(7)  # begun at 4 s, late at 6 s, and then it takes 1 s


def test_the_same_seed_is_the_same_pass() -> None:
    assert run(100, 5, HARD, 1) == run(100, 5, HARD, 1)
    assert run(100, 5, HARD, 1) != run(100, 5, HARD, 2)
