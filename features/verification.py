"""Does a cache still say what its images, its weights and the network say?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from features.datasets import SPLITS, Dataset
from features.embeddings import Embeddings
from features.errors import UserError
from features.extractor import TOLERANCE, VGG16

SAMPLE = 64  # rows of each split that are embedded again
BLOCK = 1_000  # rows looked at together
ENOUGH = 200  # rows in a split from which dead dimensions and copies mean something
DEAD = 0.5  # share of a layer's dimensions that may be the same for all images
DOUBLED = 0.01  # share of rows that may equal another: datasets do hold a few images twice

Check = tuple[str, str | None]


def checks(embeddings: Embeddings, dataset: Dataset, weights: str | None = None) -> Iterator[Check]:
    """Yield ``(what, None)`` for each check that holds and ``(what, problem)`` for each other.

    Digests first (of the file, then of the images), then labels and ids row by row, the silent
    disasters, then a random sample of rows embedded again and compared within the precision's tolerance.
    """
    damaged = False
    for name, problem in embeddings.problems():
        damaged = damaged or problem is not None
        yield f"digest of {name}", problem
    if damaged:
        return
    yield "digest of the images", _same(dataset.digest(fresh=True), embeddings.dataset["digest"])
    for split in SPLITS:
        rows = dataset.ids(split) == embeddings.ids(split)
        labels = _digest(dataset.labels(split)) == embeddings.digest(f"{split}/labels")
        yield f"rows of {split}", None if rows and labels else "ids or labels differ from the dataset's"
    yield from _disasters(embeddings, dataset)
    yield from _embed_again(embeddings, dataset, weights)


def _disasters(embeddings: Embeddings, dataset: Dataset) -> Iterator[Check]:
    """What has gone wrong silently elsewhere: each is a line, whatever the number of layers."""
    broken, constant, dead, doubled, strange = [], [], [], [], []
    for split in SPLITS:
        labels = dataset.labels(split)  # the file's own: they have just been compared
        if labels.min() < 0 or labels.max() >= len(embeddings.class_names):
            strange.append(f"{split} has labels from {labels.min()} to {labels.max()}")
        for layer in embeddings.layers:
            name, rows = f"{split}/{layer}", len(labels)
            seen: set[bytes] = set()
            low, high = np.inf, -np.inf
            for start in range(0, rows, BLOCK):
                block = embeddings.rows_of(split, layer, slice(start, start + BLOCK))
                bad = ~np.isfinite(block).all(axis=1)
                flat = block.min(axis=1) == block.max(axis=1)
                broken += [f"{name} row {start + row}" for row in np.flatnonzero(bad)]
                constant += [f"{name} row {start + row}" for row in np.flatnonzero(flat & ~bad)]
                low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
                seen.update(hashlib.blake2b(row.data, digest_size=16).digest() for row in block)
            still = int((np.asarray(low) == high).sum())
            if rows >= ENOUGH and still > DEAD * len(np.atleast_1d(low)):
                dead.append(f"{still} of {name}'s {len(np.atleast_1d(low))} never change")
            if rows >= ENOUGH and rows - len(seen) > DOUBLED * rows:
                doubled.append(f"{rows - len(seen)} of {name}'s {rows} rows are copies of others")
    yield "every number is finite", _first(broken)
    yield "no row is constant", _first(constant)
    yield f"at most {DEAD:.0%} of a layer's dimensions are dead", _first(dead)
    yield f"at most {DOUBLED:.0%} of the rows are doubled", _first(doubled)
    yield "labels are within the classes", _first(strange)


def _first(problems: list[str]) -> str | None:
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    return ", ".join(problems[:3]) + more or None


def _embed_again(embeddings: Embeddings, dataset: Dataset, weights: str | None) -> Iterator[Check]:
    spec = embeddings.spec
    source = embeddings.provenance["weights_source"]
    if weights is None and spec["weights"] != "imagenet":
        weights = source
    layers = ",".join(spec["layers"])
    extractor = VGG16(
        layers, spec["image_size"], spec["preprocess"], spec["precision"], spec["mirror"], weights
    )
    try:
        problem = _same(extractor.weights.digest, spec["weights_sha256"])
    except UserError as error:
        problem = str(error)
    yield "digest of the weights", problem
    if problem:
        return
    tolerance = TOLERANCE[spec["precision"]]
    rng = np.random.default_rng()
    for split in SPLITS:
        count = embeddings.rows[split]
        rows = np.sort(rng.choice(count, min(SAMPLE, count), replace=False))
        images = [dataset.images(split, row, row + 1, extractor.image_size) for row in rows]
        fresh = extractor.embed(np.concatenate(images))
        for layer in embeddings.layers:
            kept = embeddings.rows_of(split, layer, rows)
            away = np.linalg.norm(fresh[layer] - kept, axis=1) / np.linalg.norm(kept, axis=1)
            worst = int(np.nanargmax(away))
            far = f"row {rows[worst]} is {away[worst]:.1e} of its length away, expected {tolerance:g}"
            name = f"{len(rows)} rows of {split}/{layer} embedded again"
            yield name, None if away[worst] <= tolerance else far


def _digest(labels: NDArray[np.int64]) -> str:
    return hashlib.sha256(labels.astype(np.int64).tobytes()).hexdigest()


def _same(came: str, expected: str) -> str | None:
    return None if came == expected else f"expected {expected}, came {came}"
