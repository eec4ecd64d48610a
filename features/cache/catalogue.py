"""Search for the finished cache that fits a spec."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from features.backbones.extractor import store_of
from features.cache.embeddings import Damaged, Embeddings
from features.cache.lock import owner_of
from features.errors import UserError


def fields(embeddings: Embeddings) -> dict[str, Any]:
    """The properties by which a cache can be searched for."""
    return {
        **embeddings.spec,
        "store": store_of(embeddings.spec),
        "dataset": embeddings.dataset["source"],
        "dataset_sha256": embeddings.dataset["digest"],
        "limit": embeddings.dataset["limit"],
        "weights_source": embeddings.provenance.get("weights_source"),
    }


def differences(embeddings: Embeddings, asked: dict[str, Any]) -> list[str]:
    """How a cache differs from what is asked for, a phrase per field; empty if it fits.

    A cache fits if it has the requested layers, possibly among others. ``asked`` is a spec or a part of one;
    without a stored dtype it means float32.
    """
    have = fields(embeddings)
    phrases = []
    for name, value in {**asked, "store": store_of(asked)}.items():
        held = have.get(name)
        fits = set(value) <= set(held) if name == "layers" and held else held == value
        if not fits:
            phrases.append(f"cached: {name}={_show(held)}, asked: {_show(value)}")
    return phrases


def find(root: Path, asked: dict[str, Any]) -> tuple[list[Embeddings], list[tuple[Path, list[str]]]]:
    """The caches below ``root`` that fit, and the others with their differences, closest first.

    Files that cannot be read are among the others, with the reason.
    """
    fitting: list[Embeddings] = []
    others: list[tuple[Path, list[str]]] = []
    for path in sorted(root.glob("*.h5")):
        try:
            embeddings = Embeddings(path)
        except UserError as error:
            others.append((path, [str(error)]))
            continue
        phrases = differences(embeddings, asked)
        if phrases:
            others.append((path, phrases))
        else:
            fitting.append(embeddings)
    others.sort(key=lambda other: len(other[1]))
    return fitting, others


def exact(fitting: list[Embeddings], layers: tuple[str, ...]) -> list[Embeddings]:
    """The one cache with exactly these layers, if there is one; otherwise all of them."""
    found = [item for item in fitting if set(item.layers) == set(layers)]
    return found if len(found) == 1 else fitting


def with_fingerprint(root: Path, fingerprint: str) -> Embeddings | None:
    """The finished cache below ``root`` with this fingerprint, if one can be opened."""
    for path in sorted(root.glob("*.h5")):
        try:
            embeddings = Embeddings(path)
        except UserError:
            continue
        if embeddings.fingerprint == fingerprint:
            return embeddings
    return None


def damaged(root: Path) -> list[tuple[Path, str]]:
    """The finished caches below ``root`` that are too damaged to be opened, with the reason."""
    found = []
    for path in sorted(root.glob("*.h5")):
        try:
            Embeddings(path)
        except Damaged as error:
            found.append((path, str(error)))
        except UserError:
            continue
    return found


def _show(value: Any) -> str:
    return ",".join(value) if isinstance(value, list | tuple) else json.dumps(value).strip('"')


def writers(root: Path) -> list[str]:
    """Phrases on the caches below ``root`` that are being written, and by which process."""
    found = []
    for parts in sorted(root.glob("*.parts")):
        lock = FileLock(parts / "lock", timeout=0)
        try:
            with lock:
                pass
        except Timeout:
            found.append(f"{parts.stem} is being written by {owner_of(parts)}")
        except OSError:
            continue
    return found
