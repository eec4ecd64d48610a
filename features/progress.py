"""Progress of long work: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from typing import IO, Any

LOG_SECONDS = 10.0  # a log gets a line at most this often


class _Lines:
    """A stream that turns a bar's carriage returns into whole lines."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        line = text.strip("\r\n ")
        if line:
            self._stream.write(line + "\n")

    def flush(self) -> None:
        self._stream.flush()


def progress(total: int, what: str, unit: str, done: int = 0, scale: bool = False, delay: float = 0) -> Any:
    """A tqdm bar on standard error that shows rate and time left.

    Parameters
    ----------
    total, done : how many units there are, and how many were there before this process began.
    what, unit : the words before and after the numbers.
    scale : print 1.2M instead of 1200000 (bytes).
    delay : seconds of silence first, for work that is usually over by then.
    """
    from tqdm import tqdm

    common: dict[str, Any] = {
        "total": total,
        "initial": done,
        "desc": what,
        "unit": unit,
        "unit_scale": scale,
        "delay": delay,
        "disable": total == 1,  # one step says nothing before it is over
    }
    if sys.stderr.isatty():
        return tqdm(dynamic_ncols=True, **common)
    layout = "{desc}: {n_fmt}/{total_fmt} {unit}, {rate_fmt}, {elapsed} elapsed, {remaining} left{postfix}"
    return tqdm(
        file=_Lines(sys.stderr),
        mininterval=LOG_SECONDS,
        maxinterval=LOG_SECONDS,
        bar_format=layout,
        **common,
    )


class Occasionally:
    """Says the first text it is given, and then at most one every ``seconds``; the rest is dropped."""

    def __init__(self, seconds: float = 2.0) -> None:
        self._seconds = seconds
        self._next = 0.0

    def say(self, text: str) -> None:
        """As :func:`say`, if it is time."""
        if time.monotonic() >= self._next:
            say(text)
            self._next = time.monotonic() + self._seconds


def say(text: str) -> None:
    """One line to standard error, where all that is not a result goes; above a bar, if there is one."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)
    else:
        print(text, file=sys.stderr, flush=True)
