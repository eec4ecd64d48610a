"""Progress of long operations: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from typing import IO, Any

LOG_SECONDS = 10.0  # between two lines in a log


class _Lines:
    """A stream that writes the updates of a bar as lines, one for each count."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._last = ""

    def write(self, text: str) -> None:
        line = text.strip("\r\n ")
        count = line.partition(",")[0]
        if line and count != self._last:  # tqdm draws the last one again when it closes
            self._stream.write(line + "\n")
            self._last = count

    def flush(self) -> None:
        self._stream.flush()


def progress(total: int, what: str, unit: str, done: int = 0, scale: bool = False, delay: float = 0) -> Any:
    """A tqdm bar on standard error with rate and remaining time.

    Parameters
    ----------
    total, done : units in all, and units already done when this process starts.
    what, unit : the text before and after the numbers.
    scale : print 1.2M instead of 1200000 (bytes).
    delay : seconds before the bar appears; shorter operations show none.
    """
    from tqdm import tqdm

    common: dict[str, Any] = {
        "total": total,
        "initial": done,
        "desc": what,
        "unit": unit,
        "unit_scale": scale,
        "delay": delay,
        "disable": total == 1,  # a single step has no progress to show
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
    """Prints at most one message every ``seconds``; the others are dropped."""

    def __init__(self, seconds: float = 2.0) -> None:
        self._seconds = seconds
        self._next = 0.0

    def say(self, text: str) -> None:
        """As :func:`say`, unless a message was printed less than ``seconds`` ago."""
        if time.monotonic() >= self._next:
            say(text)
            self._next = time.monotonic() + self._seconds


def say(text: str) -> None:
    """Print a line on standard error (results alone go to standard output), above any progress bar."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)
    else:
        print(text, file=sys.stderr, flush=True)
