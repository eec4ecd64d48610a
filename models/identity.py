"""What decides a run before it is trained: an equal run need not be trained again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from features.embeddings import Embeddings, canonical
from features.errors import UserError
from models.heads import head as known_head

if TYPE_CHECKING:
    from models.runs import Run

PARTS = ("head", "seed", "layers", "fingerprint", "asked", "grid")


def identity(
    embeddings: Embeddings,
    layers: Sequence[str],
    head: str,
    seed: int,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The ``PARTS`` of the run that a head would become on these layers.

    Raises
    ------
    UserError
        The head is unknown, or refuses the settings.
    """
    entry = known_head(head, settings)
    return {
        "head": head,
        "seed": seed if entry.draws else 0,
        "layers": tuple(layers),
        "fingerprint": embeddings.fingerprint,
        **entry.configuration(seed, embeddings.rows["train"]),
    }


def id_of(identity: Mapping[str, Any]) -> str:
    """Twelve hex digits over an identity."""
    return hashlib.sha256(canonical([identity[part] for part in PARTS]).encode()).hexdigest()[:12]


def in_order(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The ``PARTS`` of an identity with its layers by name, as runs of before need not have them."""
    return {part: identity[part] for part in PARTS} | {"layers": tuple(sorted(identity["layers"]))}


def is_set_as(run: Run, settings: Mapping[str, Any]) -> bool:
    """Whether a run is of a head as it is but for these settings; whatever the seed and the images."""
    try:
        return known_head(run.head, settings).configuration(run.seed, run.train_rows) == {
            "asked": run.asked,
            "grid": run.grid,
        }
    except UserError:  # a vote, or a head that has no such parameter
        return False


def test_digest(embeddings: Embeddings) -> str:
    """Equal for embeddings whose test splits ask the same questions, in the same order."""
    about = {name: embeddings.dataset[name] for name in ("digest", "limit")}
    arrays = [embeddings.digest(f"test/{name}") for name in ("ids", "labels")]
    return hashlib.sha256(canonical([about, embeddings.class_names, arrays]).encode()).hexdigest()
