"""What decides a run before it is trained: an equal run need not be trained again."""

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
    """The ``PARTS`` of the run that a head would become on these layers.

    Raises
    ------
    UserError
        The head is unknown, or refuses the settings or the grid.
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
    """Twelve hex digits over an identity."""
    return canonical_digest([identity[part] for part in PARTS])[:12]


def in_order(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The ``PARTS`` of an identity with its layers by name, as runs of before need not have them."""
    return {part: identity[part] for part in PARTS} | {"layers": tuple(sorted(identity["layers"]))}


def test_digest(embeddings: Embeddings) -> str:
    """Equal for embeddings whose test splits ask the same questions, in the same order."""
    about = {name: embeddings.dataset[name] for name in ("digest", "limit")}
    arrays = [embeddings.digest(f"test/{name}") for name in ("ids", "labels")]
    return canonical_digest([about, embeddings.class_names, arrays])


def test_digest_of(
    digest: str, limit: int | None, class_names: Sequence[str], ids: Sequence[str], labels: NDArray[np.int64]
) -> str:
    """What :func:`test_digest` will be of embeddings whose test split has these ids and labels (n,)."""
    arrays = [np.array([row.encode() for row in ids]).tobytes(), labels.astype(np.int64).tobytes()]
    proofs = [hashlib.sha256(array).hexdigest() for array in arrays]
    about = {"digest": digest, "limit": limit}
    return canonical_digest([about, list(class_names), proofs])
