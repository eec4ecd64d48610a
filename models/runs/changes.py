"""Exclusive access to the folder of runs, and clean-up after interrupted changes."""

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

LOCK = "lock"  # file in the folder of runs
PATIENCE = 600.0  # seconds to wait for the lock; saving a run of gigabytes takes a minute
LEFT = re.compile(r"\.(.+-[0-9a-f]{12})(?:\.\d+)?\.(old|tmp)")  # temporary names; earlier ones had a number


def remove(folder: Path) -> None:
    """Remove a run atomically."""
    going = folder.with_name(f".{folder.name}.tmp")
    with changing(folder.parent):
        os.replace(folder, going)
        shutil.rmtree(going)


@contextmanager
def changing(root: Path) -> Iterator[None]:
    """Hold the lock for changes to the folder of runs, and remove partial runs before and after.

    The operating system releases the lock of a process however it ends. So partial runs found under the
    lock belong to dead processes, which process numbers could not tell across containers.

    Raises
    ------
    UserError
        The folder cannot be written, or another process has held the lock for ``PATIENCE`` seconds.
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
    """Remove partial runs, for readers: does nothing if the lock is held or the folder is read-only."""
    if any(_left(root)):
        with suppress(OSError), FileLock(root / LOCK, timeout=0):  # Timeout is an OSError
            _clear_up(root)


def _clear_up(root: Path) -> None:
    """Remove partial runs; the caller holds the lock.

    An old run that was not replaced after all gets its name back.
    """
    for left, name, kind in _left(root):
        if kind == "old" and not (root / name).exists():
            os.replace(left, root / name)
        else:
            shutil.rmtree(left)


def _left(root: Path) -> list[tuple[Path, str, str]]:
    """Partial and replaced runs: the path, the name of the run, and ``tmp`` or ``old``."""
    matches = ((path, LEFT.fullmatch(path.name)) for path in root.glob(".*"))
    return [(path, match[1], match[2]) for path, match in matches if match]
