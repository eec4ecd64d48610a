"""Error messages in one line, and log files with the traceback of bugs."""

from __future__ import annotations

import dataclasses
import re
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import FrameType

from features.errors import UserError
from features.progress import say
from pipeline.options import Options

NAMES = {field.name: field.name.upper() for field in dataclasses.fields(Options)} | {"settings": "SET"}
_PARAMETER = re.compile(rf"(?:(?<=[\s(])|^)({'|'.join(NAMES)})(?==)|^(?:settings|grid)(?=:)")
COMMANDS = {  # advice in messages of the libraries, and the command line's equivalent
    "choose another folder": "choose another OUT=",
    "compute it again": "run: make features",
    "grow the curve again": "run: make curve",
    "score it again": "run: make evaluate",
    "take the vote again": "run: make train HEAD=vote",
    "verify the cache": "run: make verify",
}

_NETWORK = "a smaller BATCH= or IMAGE_SIZE="
_RUNS = "fewer runs (HEAD=, LAYERS=, DATASET=)"
LESS = {  # what needs less memory, by stage
    "features": _NETWORK,
    "verify": _NETWORK,
    "predict": _NETWORK,
    "evaluate": _NETWORK,
    "report": _RUNS,
    "train": "fewer images (LIMIT=) or narrower layers (LAYERS=)",
}


def in_users_words(error: UserError | str) -> str:
    """A message of the libraries on one line, in the words of the command line: ``LIMIT=`` for ``limit=``."""
    text = _PARAMETER.sub(lambda found: NAMES[found[0]], " ".join(str(error).splitlines()))
    for advice, command in COMMANDS.items():
        text = text.replace(advice, command)
    return text


def reason(error: Exception, options: Options, job: str) -> str:
    """Why one of several jobs failed, in one line.

    For a bug, the line has the type of the exception and the path of the log with its traceback.
    """
    if is_interrupt(error):
        raise KeyboardInterrupt from error
    if options.debug:
        say(trace(error))
    if (line := memory(error)) is not None:
        return line
    first = (str(error).splitlines() or [""])[0]
    if isinstance(error, UserError):
        return in_users_words(first)
    return f"{type(error).__name__}: {first}; traceback: {_kept(error, options.logs, job)}"


_interrupted = threading.Event()  # Ctrl-C was pressed since the last command began


@contextmanager
def noting_interrupts() -> Iterator[None]:
    """Record Ctrl-C for :func:`is_interrupt`, until the next such block begins.

    ``KeyboardInterrupt`` is raised as usual. If SIGINT is ignored, as in background jobs, it stays ignored.
    """
    usual = signal.getsignal(signal.SIGINT)

    def noted(number: int, frame: FrameType | None) -> None:
        _interrupted.set()
        signal.default_int_handler(number, frame)

    _interrupted.clear()
    if usual is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, noted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


def is_interrupt(error: BaseException) -> bool:
    """Whether an error is Ctrl-C, possibly converted by native code.

    TensorFlow raises ``SystemError`` with ``KeyboardInterrupt`` as its cause, or pybind11's ``RuntimeError``
    without a cause; so the record of :func:`noting_interrupts` decides.
    """
    return _interrupted.is_set() or any(isinstance(link, KeyboardInterrupt) for link in _chain(error))


def memory(error: BaseException, stage: str = "") -> str | None:
    """A line on a lack of memory and what needs less; None for other errors.

    NumPy's error is a ``MemoryError`` too; TensorFlow's is recognised by its name, without importing it.
    """
    for link in _chain(error):
        if isinstance(link, MemoryError) or type(link).__name__ == "ResourceExhaustedError":
            first = (str(link).splitlines() or [""])[0]
            what = f"the memory ran out ({first})" if first else "the memory ran out"
            return f"{what}; {LESS.get(stage, LESS['train'])} would need less"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and its chain of causes."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def reported(failed: dict[str, str]) -> int:
    """Print what failed; returns the exit code."""
    for job, why in failed.items():
        say(f"failed: {job}: {why}")
    return 1 if failed else 0


def trace(error: BaseException) -> str:
    """The traceback with all causes, including those hidden by ``from None``."""
    for link in _chain(error):
        link.__suppress_context__ = False
    return "".join(traceback.format_exception(error))


def _kept(error: Exception, folder: Path, job: str) -> str:
    """Write the traceback to a new log, or to standard error if that fails; returns where it is."""
    from features.cache.embeddings import slug

    name, content = f"{time.strftime('%Y%m%d-%H%M%S')}-{slug(job)}", f"{job}\n\n{trace(error)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            path = folder / (f"{name}.log" if number == 1 else f"{name}-{number}.log")
            try:
                with open(path, "x", encoding="utf-8") as out:
                    out.write(content)
            except FileExistsError:  # written in the same second
                continue
            return str(path)
    except OSError:
        say(content)
    return "above"
