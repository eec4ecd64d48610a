"""Verification of a cache against its images, weights and network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.backbones.extractor import TOLERANCE, Extractor, distances, store_of
from features.cache.catalogue import damaged
from features.cache.embeddings import Embeddings
from features.datasets.base import SPLITS, Dataset
from features.errors import UserError
from features.words import listed

SAMPLE = 64  # rows of each split that are embedded again
BLOCK = 1_000  # rows checked at a time
ENOUGH = 200  # rows of a split from which dead dimensions and duplicates are checked
DEAD = 0.5  # share of a layer's dimensions that may be constant over all images
ROUNDED = {"float32": 0.0, "float16": 2**-11}  # relative rounding error of storing (IEEE 754 binary16)
DOUBLED = 0.01  # share of rows that may be duplicates: datasets contain some images twice

Check = tuple[str, str | None]


def unopened(folder: Path) -> Iterator[Check]:
    """Yield a failed check for each finished cache in ``folder`` that is too damaged to be opened."""
    for path, problem in damaged(folder):
        yield f"header of {path.name}", problem


def checks(embeddings: Embeddings, dataset: Dataset, weights: str | None = None) -> Iterator[Check]:
    """Yield the name of each check, and its problem or None.

    In this order: digests of the file, digest and rows of the dataset, implausible vectors, and a random
    sample of rows embedded again and compared within the tolerance of the precision plus that of storing.
    If the file is damaged, or the images are others, the remaining checks are skipped.

    Parameters
    ----------
    embeddings : the cache.
    dataset : the images it should have been made from.
    weights : path of the weights; None: as recorded in the cache.
    """
    digests = ((f"digest of {name}", problem) for name, problem in embeddings.problems())
    for group in (digests, _same_images(embeddings, dataset)):
        well = True
        for name, problem in group:
            well = well and problem is None
            yield name, problem
        if not well:
            return
    yield from _disasters(embeddings, dataset)
    yield from _embed_again(embeddings, dataset, weights)


def _same_images(embeddings: Embeddings, dataset: Dataset) -> Iterator[Check]:
    """Whether the dataset still has the images and rows that were embedded."""
    yield "digest of the images", _same(dataset.digest(fresh=True), embeddings.dataset["digest"])
    for split in SPLITS:
        kept, got = embeddings.ids(split), dataset.ids(split)
        moved = [f"{name!r} is gone" for name in sorted(set(kept) - set(got))]
        moved += [f"{name!r} is new" for name in sorted(set(got) - set(kept))]
        if kept != got:
            problem = f"expected {len(kept)} images, got {len(got)}: {_first(moved) or 'in another order'}"
        elif _digest(dataset.labels(split)) != embeddings.digest(f"{split}/labels"):
            problem = "the labels differ from the dataset's"
        else:
            problem = None
        yield f"rows of {split}", problem


def _disasters(embeddings: Embeddings, dataset: Dataset) -> Iterator[Check]:
    """Implausible vectors and labels; one check each, over all layers."""
    broken, constant, dead, doubled, strange = [], [], [], [], []
    for split in SPLITS:
        labels = dataset.labels(split)  # equal to those in the file, as just checked
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
                dead.append(f"{still} of {name}'s {len(np.atleast_1d(low))} are constant")
            if rows >= ENOUGH and rows - len(seen) > DOUBLED * rows:
                doubled.append(f"{rows - len(seen)} of {name}'s {rows} rows are copies of others")
    yield "every number is finite", _first(broken)
    yield "no row is constant", _first(constant)
    yield f"at most {DEAD:.0%} of a layer's dimensions are dead", _first(dead)
    yield f"at most {DOUBLED:.0%} of the rows are doubled", _first(doubled)
    yield "labels are within the classes", _first(strange)


def _first(problems: list[str]) -> str | None:
    return listed(problems, 3) or None


def _embed_again(embeddings: Embeddings, dataset: Dataset, weights: str | None) -> Iterator[Check]:
    spec = embeddings.spec
    source = embeddings.provenance["weights_source"]
    if weights is None and spec["weights"] != "imagenet":
        weights = source
    extractor = Extractor.of_spec(spec, spec["layers"], weights)
    try:
        problem = _same(extractor.weights.digest, spec["weights_sha256"])
    except UserError as error:
        problem = str(error)
    yield "digest of the weights", problem
    if problem:
        return
    tolerance = TOLERANCE[spec["precision"]] + ROUNDED[store_of(spec)]
    rng = np.random.default_rng()
    for split in SPLITS:
        count = embeddings.rows[split]
        rows = np.sort(rng.choice(count, min(SAMPLE, count), replace=False))
        images = [dataset.images(split, row, row + 1, extractor.image_size) for row in rows]
        fresh = extractor.embed(np.concatenate(images))
        for layer in embeddings.layers:
            kept = embeddings.rows_of(split, layer, rows)
            away = distances(fresh[layer], kept)
            worst = int(away.argmax())
            far = f"row {rows[worst]} is {away[worst]:.1e} of its length away, expected at most {tolerance:g}"
            name = f"{len(rows)} rows of {split}/{layer} embedded again"
            yield name, None if away[worst] <= tolerance else far


def _digest(labels: NDArray[np.int64]) -> str:
    return hashlib.sha256(labels.astype(np.int64).tobytes()).hexdigest()


def _same(got: str, expected: str) -> str | None:
    return None if got == expected else f"expected {expected}, got {got}"
