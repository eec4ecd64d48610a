"""Read-ahead: the next parts are read while the current one is in use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def read_ahead(pool: Executor, read: Callable[[S], T], parts: Iterable[S], at_once: int = 2) -> Iterator[T]:
    """Yield ``read(part)`` for each part, in order, while ``pool`` reads the next ones.

    Parameters
    ----------
    at_once : how many parts are submitted at a time, the one that is waited for included.
    """
    waiting: deque[Future[T]] = deque()
    for part in parts:
        waiting.append(pool.submit(read, part))
        if len(waiting) == at_once:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
