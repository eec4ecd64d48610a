"""Parts read in turn, with the next ones under way meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def read_ahead(pool: Executor, read: Callable[[S], T], parts: Iterable[S], at_once: int = 2) -> Iterator[T]:
    """``read(part)`` for each part in turn, with the next ones under way in ``pool`` meanwhile."""
    waiting: deque[Future[T]] = deque()
    for part in parts:
        waiting.append(pool.submit(read, part))
        if len(waiting) == at_once:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
