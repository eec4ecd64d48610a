"""Small arrays that took long to compute, kept beside the cache they came from."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.cache.embeddings import canonical
from features.files import write_whole
from features.progress import say

Arrays = dict[str, NDArray[Any]]

FORMAT = 1  # of the file, and of what its arrays mean: another is computed again


def load(path: Path, origin: dict[str, Any]) -> Arrays | None:
    """The arrays kept in ``path``; None where there are none, or damaged, or of another origin.

    Parameters
    ----------
    path : an ``.npz`` file that :func:`save` wrote.
    origin : what the arrays must have been computed from, as JSON values: the cache's fingerprint.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            arrays = dict(archive)
        about = json.loads(str(arrays.pop("about")))
        whole = about["sha256"] == _digest(about["origin"], arrays)
        return arrays if whole and about["origin"] == {**origin, "format": FORMAT} else None
    except Exception:  # whatever a damaged archive makes NumPy and zipfile raise
        return None


def save(path: Path, origin: dict[str, Any], arrays: Arrays) -> None:
    """Write the arrays, whole or not at all; a folder that cannot be written costs a line, no more."""
    origin = {**origin, "format": FORMAT}
    about = canonical({"origin": origin, "sha256": _digest(origin, arrays)})
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, about=np.array(about), **arrays)
    try:
        write_whole(path, buffer.getvalue())
    except OSError as error:
        say(f"note: {path} cannot be written ({error.strerror}); it is computed again next time")


def _digest(origin: dict[str, Any], arrays: Arrays) -> str:
    """SHA-256 over the origin, and each array's name, dtype, shape and bytes."""
    proof = hashlib.sha256(canonical(origin).encode())
    for name, array in sorted(arrays.items()):
        proof.update(canonical([name, array.dtype.str, list(array.shape)]).encode())
        proof.update(array.tobytes())
    return proof.hexdigest()
