"""The identity of a run: everything that determines it before training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.cache.embeddings import Embeddings, canonical_digest
from models.heads.registry import head as known_head

PARTS = ("head", "seed", "layers", "fingerprint", "asked", "grid")


def identity(
    embeddings: Embeddings,
    layers: Sequence[str],
    head: str,
    seed: int,
    settings: Mapping[str, Any] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
) -> dict[str, Any]:
    """The identity of a run of this head on these layers, with the keys ``PARTS``.

    Parameters
    ----------
    embeddings : the cache.
    layers : the layers, in column order.
    head, seed, settings, grid : as in :func:`models.selection.train`.

    Raises
    ------
    UserError
        The head is unknown, or rejects the settings or the grid.
    """
    entry = known_head(head, settings, grid)
    return {
        "head": head,
        "seed": seed if entry.random else 0,
        "layers": tuple(layers),
        "fingerprint": embeddings.fingerprint,
        **entry.configuration(seed, embeddings.rows["train"]),
    }


def id_of(identity: Mapping[str, Any]) -> str:
    """Twelve hex digits of a digest of an identity."""
    return canonical_digest([identity[part] for part in PARTS])[:12]


def in_order(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity with its layers sorted by name, which runs of earlier versions may not have."""
    return {part: identity[part] for part in PARTS} | {"layers": tuple(sorted(identity["layers"]))}


def test_digest(embeddings: Embeddings) -> str:
    """Hex SHA-256 that is equal for embeddings with the same test images and labels, in the same order."""
    about = {name: embeddings.dataset[name] for name in ("digest", "limit")}
    arrays = [embeddings.digest(f"test/{name}") for name in ("ids", "labels")]
    return canonical_digest([about, embeddings.class_names, arrays])


def test_digest_of(
    digest: str, limit: int | None, class_names: Sequence[str], ids: Sequence[str], labels: NDArray[np.int64]
) -> str:
    """The :func:`test_digest` that embeddings with these test ids and labels (n,) would have."""
    arrays = [np.array([row.encode() for row in ids]).tobytes(), labels.astype(np.int64).tobytes()]
    proofs = [hashlib.sha256(array).hexdigest() for array in arrays]
    about = {"digest": digest, "limit": limit}
    return canonical_digest([about, list(class_names), proofs])
