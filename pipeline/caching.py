"""A finished cache of embeddings: found, or computed."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median_high
from typing import TYPE_CHECKING

from features.progress import say
from pipeline.options import Options

if TYPE_CHECKING:
    from features.datasets import Dataset
    from features.embeddings import Embeddings
    from features.extractor import VGG16

LOOKED_AT = 20  # pictures whose size and quality are looked at
GOOD = 95  # quality from which on a JPEG is told nothing of


def finished_cache(options: Options) -> Path:
    """The finished cache for these options, computed if there is none."""
    from features.catalogue import damaged
    from features.datasets import open_dataset
    from features.lock import sweep

    extractor = options.extractor()
    dataset = open_dataset(options.dataset, options.archive, options.limit)
    started = time.perf_counter()
    for path, _ in damaged(options.embeddings):
        _put_aside(path)
    hit = _hit(options, extractor, dataset.digest())
    if hit is None:
        extractor.weights  # noqa: B018  the spec below is of what was really found
        hit = _hit(options, extractor, dataset.digest(), tell=True)
    if hit is not None and _problem(hit.path):
        _put_aside(hit.path)
        hit = None
    if hit is None:
        return _compute(options, _settled(options, extractor, dataset), dataset)
    sweep(hit.path)
    say(f"cached and verified in {time.perf_counter() - started:.1f} s: {describe(hit)}")
    return hit.path


def _settled(options: Options, extractor: VGG16, dataset: Dataset) -> VGG16:
    """The extractor with its precision decided: asked for, begun with, or measured to be faster."""
    from features.extractor import AUTO, PRECISIONS
    from features.precision import choose
    from features.store import EmbeddingStore

    if extractor.precision != AUTO:
        return extractor
    for precision in PRECISIONS:
        begun = extractor.at(precision)
        if EmbeddingStore(options.embeddings, dataset, begun.spec(), begun.widths).begun:
            say(f"precision {precision}: a pass was begun with it, and goes on")
            return begun
    count = min(extractor.batch, len(dataset.labels("train")))
    settled, reason = choose(extractor, dataset.images("train", 0, count, extractor.image_size))
    say(f"precision {reason}")
    return settled


def _compute(options: Options, extractor: VGG16, dataset: Dataset) -> Path:
    from features.extraction import extract
    from features.store import EmbeddingStore
    from models.runs import processor, versions

    store = EmbeddingStore(options.embeddings, dataset, extractor.spec(), extractor.widths)
    with store.lock():
        if store.path.exists():  # finished while this process looked
            return store.path
        todo = store.missing()
        store.check_disk(todo)
        begun = time.perf_counter()
        if todo:
            _tell_what_is_lost(dataset, extractor.image_size, chosen="image_size" in options.said)
            extractor.prepare()
        started = time.perf_counter()
        with store.assembly() as assembly:
            network = extract(dataset, extractor, store, assembly, todo)
            provenance = {
                "weights_source": extractor.weights.source,
                "archive": dataset.archive,
                "startup_seconds": round(started - begun, 1),
                "seconds": round(time.perf_counter() - started, 1),
                "network_seconds": round(network, 1),
                "images_in_this_pass": sum(shard.stop - shard.start for shard in todo),
                "versions": versions(),
                "processor": processor(),
                "command": options.command("features"),
            }
            embeddings = store.commit(assembly, provenance)
    say(f"written: {describe(embeddings)}")
    return store.path


def _tell_what_is_lost(dataset: Dataset, size: int, chosen: bool) -> None:
    """A note where pictures are much larger than the network's input, and nobody chose its size.

    Also where they are compressed and much smaller: enlarging them enlarges what compression did.
    """
    rows = range(0, len(dataset.labels("train")), len(dataset.labels("train")) // LOOKED_AT or 1)
    looked_at = [dataset.stored("train", row) for row in rows]
    side = median_high(picture.side for picture in looked_at)
    quality = median_high(picture.quality or 100 for picture in looked_at)
    if side >= 2 * size and not chosen:
        say(
            f"note: these pictures are about {side} pixels on their short side, and {size} of it are left; "
            "a larger IMAGE_SIZE= keeps more: four times the time for twice the size"
        )
    elif size >= 2 * side and quality < GOOD:
        say(
            f"note: these pictures are JPEGs of about quality {quality}, {side} pixels on their short side, "
            f"enlarged {round(size / side, 1):g} times: compression, not the network, may limit accuracy; "
            "lossless originals keep more"
        )


def _problem(path: Path) -> str | None:
    """What is wrong with a finished file; None if it holds what was written."""
    from features.embeddings import Damaged, Embeddings

    try:
        return next((problem for _, problem in Embeddings(path).problems() if problem), None)
    except Damaged as error:
        return str(error)


def _put_aside(path: Path) -> None:
    """Set a damaged file aside, unless another process has done so and perhaps made a new one."""
    from features.lock import set_aside, writing

    with writing(path):
        if path.exists() and (problem := _problem(path)):
            say(f"{problem}\n{path.name} is set aside as {set_aside(path).name}")


def _hit(options: Options, extractor: VGG16, dataset_digest: str, tell: bool = False) -> Embeddings | None:
    """The finished cache that has what is asked, by content; ``tell``: in what the nearest other differs."""
    from features.catalogue import exact, find

    asked = {**extractor.spec(), "dataset_sha256": dataset_digest, "limit": options.limit}
    fitting, others = find(options.embeddings, asked)
    if tell and others and not fitting:
        path, phrases = others[0]
        say(f"not cached yet; the nearest is {path.name} ({'; '.join(phrases)})")
    return exact(fitting, extractor.layers)[0] if fitting else None


def describe(embeddings: Embeddings) -> str:
    """What a cache holds, in a line."""
    rows = " + ".join(f"{count:,}" for count in embeddings.rows.values())
    return (
        f"{embeddings.dataset['name']}, {rows} images, "
        f"{embeddings.spec['image_size']} px, {', '.join(embeddings.layers)}, "
        f"weights {embeddings.spec['weights']}"
    )
