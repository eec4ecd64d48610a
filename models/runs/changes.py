"""Changes to the folder of runs: one process at a time, and nothing half done is left behind."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from features.errors import UserError
from features.files import make_folder

LOCK = "lock"  # in the folder of runs: whoever holds it is the only one that changes the folder
PATIENCE = 600.0  # seconds that a run waits for another to be saved; one of gigabytes takes a minute
LEFT = re.compile(r"\.(.+-[0-9a-f]{12})(?:\.\d+)?\.(old|tmp)")  # by a kill; earlier versions added a number


def remove(folder: Path) -> None:
    """Remove a run: a kill leaves it whole, or not there."""
    going = folder.with_name(f".{folder.name}.tmp")
    with changing(folder.parent):
        os.replace(folder, going)
        shutil.rmtree(going)


@contextmanager
def changing(root: Path) -> Iterator[None]:
    """Be the only process that changes the folder of runs, and leave whole runs alone behind.

    The system frees the lock of a process however it ends. So whoever holds it knows that what is
    half written is nobody's, which no process number tells: another container counts its own.

    Raises
    ------
    UserError
        The folder cannot be written, or another process holds the lock for too long.
    """
    try:
        make_folder(root)
        with FileLock(root / LOCK, timeout=PATIENCE):
            _clear_up(root)
            try:
                yield
            finally:
                _clear_up(root)
    except Timeout:
        raise UserError(
            f"another process has been writing to {root} for {PATIENCE:g} s; wait for it, then run this again"
        ) from None
    except OSError as error:
        raise UserError(f"cannot write {root}: {error.strerror or error}; choose another folder") from None


def clear_up_if_free(root: Path) -> None:
    """What :func:`changing` does first, for a reader: it waits for nobody, and needs no permission."""
    if any(_left(root)):
        with suppress(OSError), FileLock(root / LOCK, timeout=0):  # its Timeout is an OSError
            _clear_up(root)


def _clear_up(root: Path) -> None:
    """Clear up after a run that was being saved or removed; the caller holds the lock.

    A run whose replacement never came gets its name back; what was half written goes.
    """
    for left, name, kind in _left(root):
        if kind == "old" and not (root / name).exists():
            os.replace(left, root / name)
        else:
            shutil.rmtree(left)


def _left(root: Path) -> list[tuple[Path, str, str]]:
    """What is half written, half removed or half replaced: where, of which run, ``tmp`` or ``old``."""
    matches = ((path, LEFT.fullmatch(path.name)) for path in root.glob(".*"))
    return [(path, match[1], match[2]) for path, match in matches if match]
