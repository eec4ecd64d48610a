"""What failed: reported in one line, and the traceback of a defect kept in a file."""

from __future__ import annotations

import dataclasses
import re
import time
import traceback
from itertools import count
from pathlib import Path

from features.errors import UserError
from features.progress import say
from pipeline.options import Options

NAMES = {field.name: field.name.upper() for field in dataclasses.fields(Options)} | {"settings": "SET"}
_PARAMETER = re.compile(rf"(?:(?<=[\s(])|^)({'|'.join(NAMES)})(?==)|^(?:settings|grid)(?=:)")
COMMANDS = {  # what the libraries advise, and what is typed for it
    "choose another folder": "choose another OUT=",
    "compute it again": "run: make features",
    "grow the curve again": "run: make curve",
    "score it again": "run: make evaluate",
    "take the vote again": "run: make train HEAD=vote",
    "verify the cache": "run: make verify",
}


def in_users_words(error: UserError | str) -> str:
    """What the libraries report, as the command line says it: ``image_size=16`` is ``IMAGE_SIZE=16``."""
    text = _PARAMETER.sub(lambda found: NAMES[found[0]], str(error))
    for advice, command in COMMANDS.items():
        text = text.replace(advice, command)
    return text


def reason(error: Exception, options: Options, job: str) -> str:
    """Why one of several jobs failed, in a line.

    What nobody foresaw has the name of its kind before it, and the file of its traceback behind it.
    """
    if options.debug:
        say(trace(error))
    first = (str(error).splitlines() or [""])[0]
    if isinstance(error, UserError):
        return in_users_words(first)
    return f"{type(error).__name__}: {first}; traceback: {_kept(error, options.logs, job)}"


def reported(failed: dict[str, str]) -> int:
    """Name what failed; the exit code."""
    for job, why in failed.items():
        say(f"failed: {job}: {why}")
    return 1 if failed else 0


def trace(error: BaseException) -> str:
    """The whole traceback, with all that led to it: also what ``from None`` keeps from users."""
    link: BaseException | None = error
    while link is not None:
        link.__suppress_context__ = False
        link = link.__cause__ or link.__context__
    return "".join(traceback.format_exception(error))


def _kept(error: Exception, folder: Path, job: str) -> str:
    """Where the traceback is: in a new file, or on standard error if none can be written."""
    from features.cache.embeddings import slug

    name, content = f"{time.strftime('%Y%m%d-%H%M%S')}-{slug(job)}", f"{job}\n\n{trace(error)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            path = folder / (f"{name}.log" if number == 1 else f"{name}-{number}.log")
            try:
                with open(path, "x", encoding="utf-8") as out:
                    out.write(content)
            except FileExistsError:  # of another command in the same second
                continue
            return str(path)
    except OSError:
        say(content)
    return "above"
