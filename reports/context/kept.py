"""Arrays that are slow to compute, stored beside the cache they were computed from."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.cache.embeddings import canonical
from features.files import write_whole
from features.progress import say
from features.shapes import parsed
from models import arrays
from models.arrays import Arrays

FORMAT = 1  # version of the file and of the meaning of its arrays


def load(path: Path, origin: dict[str, Any], holds: Callable[[Arrays], bool]) -> Arrays | None:
    """Load stored arrays; None if they are missing, damaged or of another origin.

    Parameters
    ----------
    path : an ``.npz`` file written by :func:`save`.
    origin : what the arrays must have been computed from, as JSON values, such as the cache's fingerprint.
    holds : checks shapes, dtypes and ranges of the arrays.
    """
    try:
        found = arrays.read(path)
        about = parsed(str(found.pop("about")))
        whole = about["sha256"] == _digest(about["origin"], found)
        asked = about["origin"] == {**origin, "format": FORMAT}
        return found if whole and asked and holds(found) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_table(array: NDArray[Any], shape: tuple[int, ...], kind: str, low: float, high: float) -> bool:
    """Whether an array has this shape, this kind of dtype, and only values from ``low`` to ``high``."""
    return bool(
        array.shape == shape and array.dtype.kind == kind and ((array >= low) & (array <= high)).all()
    )


def save(path: Path, origin: dict[str, Any], found: Arrays) -> None:
    """Write arrays atomically; prints a note if the folder cannot be written."""
    origin = {**origin, "format": FORMAT}
    about = canonical({"origin": origin, "sha256": _digest(origin, found)})
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, about=np.array(about), **found)
    try:
        write_whole(path, buffer.getvalue())
    except OSError as error:
        say(f"note: {path} cannot be written ({error.strerror}); it is computed again next time")


def _digest(origin: dict[str, Any], found: Arrays) -> str:
    """Hex SHA-256 over the origin, and each array's name, dtype, shape and bytes."""
    proof = hashlib.sha256(canonical(origin).encode())
    for name, array in sorted(found.items()):
        proof.update(canonical([name, array.dtype.str, list(array.shape)]).encode())
        proof.update(array.tobytes())
    return proof.hexdigest()
