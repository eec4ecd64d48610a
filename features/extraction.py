"""Feature extraction: the embeddings of a dataset, from a finished cache or computed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from features.backbones.extractor import AUTO, PRECISIONS, Extractor
from features.backbones.precision import choose
from features.cache.assembly import Assembly
from features.cache.catalogue import damaged, exact, find
from features.cache.embeddings import Damaged, Embeddings
from features.cache.lock import clear, set_aside, writing
from features.cache.parts import PartAssembly
from features.cache.shards import Shard
from features.cache.store import MAX_FILE, EmbeddingStore
from features.datasets.base import Dataset
from features.environment import processor, versions
from features.errors import UserError
from features.executors.base import Executor
from features.executors.local import Local
from features.progress import progress, say
from features.words import size


def extract(
    dataset: Dataset,
    extractor: Extractor,
    folder: str | Path,
    command: str = "",
    before: Callable[[], None] | None = None,
    executor: Executor | None = None,
    max_file: int | str = MAX_FILE,
) -> Embeddings:
    """Embed every image of a dataset and store the embeddings.

    If ``folder`` has a finished cache of the same images, network and layers (possibly among other
    layers), it is verified and returned. Otherwise the network runs, shard by shard; after an interruption
    the next call resumes. A damaged cache is renamed and computed again.

    Parameters
    ----------
    dataset : from :func:`features.open_dataset`.
    extractor : the frozen network; precision ``auto`` is resolved here.
    folder : the folder of caches; made if it does not exist.
    command : the command that repeats this call, stored as provenance.
    before : called before the network is built, if any images remain to be embedded.
    executor : embeds the shards; None: this process.
    max_file : largest number of bytes of vectors in one file, as a number or as in ``50GB``; a larger cache
        is a folder of HDF5 files with an index.

    Returns
    -------
    Embeddings
        Open for reading; ``embeddings.path`` is the HDF5 file or the folder.

    Raises
    ------
    UserError
        ``max_file`` is invalid, an image or the weights cannot be read, the disk is full, or another process
        is writing this cache.

    Examples
    --------
    >>> from features import VGG16, extract, open_dataset
    >>> network = VGG16(layers="block5", image_size=32)
    >>> embeddings = extract(open_dataset("digits"), network, "out/embeddings")
    >>> embeddings.matrix("train", ["block5"]).shape
    (1442, 512)
    """
    root = Path(folder)
    started, most = time.perf_counter(), size("max_file", max_file)
    for path, _ in damaged(root):
        _set_aside(path)
    hit = _hit(root, extractor, dataset)
    if hit is None:
        extractor.weights  # noqa: B018  so that the spec has the digest of what was found
        hit = _hit(root, extractor, dataset, report=True)
    if hit is not None and _problem(hit.path):
        _set_aside(hit.path)
        hit = None
    if hit is None:
        extractor.check_memory()
        settled = _settled(root, extractor, dataset)
        store = EmbeddingStore(root, dataset, settled.spec(), settled.widths, most)
        return _compute(store, settled, dataset, command, before, executor or Local())
    clear(hit.path)
    say(f"cached and verified in {time.perf_counter() - started:.1f} s: {describe(hit)}")
    return hit


def embed_shards(
    executor: Executor,
    dataset: Dataset,
    extractor: Extractor,
    store: EmbeddingStore,
    assembly: Assembly | PartAssembly,
    todo: list[Shard],
) -> float:
    """Embed the shards of ``todo`` and add all shards that are in no finished part to ``assembly``.

    The caller holds the store's lock. While the executor works, another thread reads the stored shards in
    row order. After an interruption the finished shards remain.

    Returns
    -------
    float
        Seconds spent in the network for all shards, including those of earlier passes.

    Raises
    ------
    UserError
        Raised by the executor, the disk is full, or a stored shard has been damaged.
    """

    def assemble(shard: Shard) -> float:
        kept = store.folder.read(shard)
        if kept is None:
            raise UserError(f"the shard {shard.name} was damaged during the pass; run this again")
        assembly.add(shard, kept.vectors, kept.seconds)
        return kept.seconds

    shards, missing, seconds = store.shards, set(todo), store.seconds_in_parts
    rows, left = (sum(shard.rows for shard in some) for some in (shards, todo))
    waiting, assembled = deque(store.loose()), deque[Future[float]]()
    with (
        ThreadPoolExecutor(1) as assembler,
        progress(rows, "embed", "img", done=rows - left, delay=0 if todo else 1) as bar,
        closing(executor.embed(dataset, extractor, store.folder, todo, bar.update)) as kept,
    ):
        try:
            while waiting:
                while waiting and waiting[0] not in missing:
                    assembled.append(assembler.submit(assemble, waiting.popleft()))
                while assembled and (assembled[0].done() or not missing):
                    seconds += assembled.popleft().result()
                if missing:
                    number = len(shards) - len(missing) + 1
                    bar.set_postfix_str(f"shard {number} of {len(shards)}", refresh=False)
                    missing.remove(next(kept))
        finally:
            assembler.shutdown(wait=False, cancel_futures=True)
    return seconds


def describe(embeddings: Embeddings) -> str:
    """The contents of a cache in one line."""
    rows = " + ".join(f"{count:,}" for count in embeddings.rows.values())
    return (
        f"{embeddings.dataset['name']}, {rows} images, "
        f"{embeddings.spec['image_size']} px, {', '.join(embeddings.layers)}, "
        f"weights {embeddings.spec['weights']}"
    )


def _settled(root: Path, extractor: Extractor, dataset: Dataset) -> Extractor:
    """The extractor with precision ``auto`` resolved: as a pass was begun, or as measured to be faster."""
    if extractor.precision != AUTO:
        return extractor
    for precision in PRECISIONS:
        begun = extractor.at(precision)
        if EmbeddingStore(root, dataset, begun.spec(), begun.widths).begun:
            say(f"precision {precision}: continuing the pass that was begun with it")
            return begun
    count = min(extractor.batch, len(dataset.labels("train")))
    settled, reason = choose(extractor, dataset.images("train", 0, count, extractor.image_size))
    say(f"precision {reason}")
    return settled


def _compute(
    store: EmbeddingStore,
    extractor: Extractor,
    dataset: Dataset,
    command: str,
    before: Callable[[], None] | None,
    executor: Executor,
) -> Embeddings:
    with store.lock():
        if store.path.exists():  # another process has finished it meanwhile
            return Embeddings(store.path)
        todo = store.missing()
        store.check_disk(todo)
        begun = time.perf_counter()
        if todo:
            if before is not None:
                before()
            executor.prepare(extractor)
        started = time.perf_counter()
        with store.assembly() as assembly:
            network = embed_shards(executor, dataset, extractor, store, assembly, todo)
            provenance = {
                "weights_source": extractor.weights.source,
                "archive": dataset.archive,
                "startup_seconds": round(started - begun, 1),
                "seconds": round(time.perf_counter() - started, 1),
                "network_seconds": round(network, 1),
                "images_in_this_pass": sum(shard.rows for shard in todo),
                "versions": versions(),
                "processor": processor(),
                "command": command,
            }
            embeddings = store.commit(assembly, provenance)
    say(f"written: {describe(embeddings)}")
    return embeddings


def _problem(path: Path) -> str | None:
    """What is wrong with a finished cache; None if every digest matches."""
    try:
        return next((problem for _, problem in Embeddings(path).problems() if problem), None)
    except Damaged as error:
        return str(error)


def _set_aside(path: Path) -> None:
    """Rename a damaged cache, unless another process has already done so."""
    with writing(path):
        if path.exists() and (problem := _problem(path)):
            say(f"{problem}\n{path.name} is set aside as {set_aside(path).name}")


def _hit(root: Path, extractor: Extractor, dataset: Dataset, report: bool = False) -> Embeddings | None:
    """The finished cache that fits by content; with ``report``, print how the closest other one differs."""
    asked = {**extractor.spec(), "dataset_sha256": dataset.digest(), "limit": dataset.limit}
    fitting, others = find(root, asked)
    if report and others and not fitting:
        path, phrases = others[0]
        say(f"not cached yet; the closest is {path.name} ({'; '.join(phrases)})")
    return exact(fitting, extractor.layers)[0] if fitting else None
