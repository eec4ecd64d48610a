"""The stages: wiring, and nothing else."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import UserError
from features.progress import say

if TYPE_CHECKING:
    from features.datasets import Dataset
    from features.embeddings import Embeddings
    from features.extractor import VGG16
    from models.runs import Run


EXTRACTOR = ("layers", "image_size", "preprocess", "precision", "weights", "batch")


@dataclass(frozen=True)
class Options:
    """What the command line can say. The extractor's fields left out (None) mean its constructor's
    defaults; ``said`` names the fields that were not left out."""

    dataset: str = "cifar10"
    archive: str | None = None
    layers: str | None = None
    image_size: int | None = None
    preprocess: str | None = None
    precision: str | None = None
    weights: str | None = None
    batch: int | None = None
    limit: int | None = None
    head: str = "dense"
    seed: int = 0
    out: str = "out"
    said: tuple[str, ...] = ()

    def extractor(self, *leave_out: str) -> VGG16:
        """The network these options ask for."""
        from features.extractor import VGG16

        names = [name for name in EXTRACTOR if name in self.said and name not in leave_out]
        return VGG16(**{name: getattr(self, name) for name in names})

    def command(self, stage: str, *leave_out: str) -> str:
        """The make command that says the same to a stage."""
        names = [name for name in self.said if name not in leave_out]
        return " ".join(
            ["make", stage, *(f"{name.upper()}={shlex.quote(str(getattr(self, name)))}" for name in names)]
        )

    @property
    def embeddings(self) -> Path:
        return Path(self.out).expanduser() / "embeddings"

    @property
    def runs(self) -> Path:
        return Path(self.out).expanduser() / "runs"

    @property
    def report(self) -> Path:
        return Path(self.out).expanduser() / "report"


def features(options: Options) -> Path:
    """Stage one: the finished cache for these options, computed if there is none."""
    from features.datasets import open_dataset
    from features.store import sweep

    extractor = options.extractor()
    dataset = open_dataset(options.dataset, options.archive, options.limit)
    started = time.perf_counter()
    hit = _hit(options, extractor, dataset.digest())
    if hit is None:
        extractor.weights  # noqa: B018  the spec below is of what was really found
        hit = _hit(options, extractor, dataset.digest())
    if hit is not None and _is_whole(hit.path):
        sweep(hit.path)
        say(f"cached and verified in {time.perf_counter() - started:.1f} s: {_describe(hit)}")
        return hit.path
    return _compute(options, _settled(options, extractor, dataset), dataset)


def train(options: Options) -> Path:
    """Stage two: one head on the cached embeddings; the folder of its run."""
    from models.heads import head
    from models.selection import train as train_head

    head(options.head)
    embeddings, layers = _cached(options)
    say(f"{options.head} on {_describe(embeddings)}")
    run = train_head(embeddings, layers, options.head, options.seed)
    run.command = options.command("train")
    folder = run.save(options.runs)
    accuracy = float((run.test_proba.argmax(axis=1) == run.test_labels).mean())
    say(f"{options.head}: test accuracy {accuracy:.4f}, {sum(run.seconds.values()):.1f} s")
    return folder


def report(options: Options) -> Path:
    """All runs under ``OUT`` (those that have what was said) compared; the page to open."""
    from models.runs import load_all
    from reports.render import write
    from reports.report import build

    every = load_all(options.runs)
    runs = [run for run in every if _has_what_was_said(run, options)]
    if not runs:
        some = f"none of the {len(every)} runs" if every else "no run"
        raise UserError(f"{some} under {options.runs} fits; run: {options.command('train')}")
    page = write(build(runs), options.report)
    say(f"{len(runs)} runs compared; open this page:")
    return page


def verify(options: Options) -> bool:
    """Check every digest of a cache and embed a sample again; True if all is well."""
    from features.datasets import open_dataset
    from features.verification import checks

    embeddings, _ = _cached(options)
    dataset = open_dataset(options.dataset, options.archive, embeddings.dataset["limit"])
    well = True
    for name, problem in checks(embeddings, dataset, options.weights):
        well = well and problem is None
        print(f"{'ok    ' if problem is None else 'FAILED'} {name}{f': {problem}' if problem else ''}")
    return well


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
    from features.store import EmbeddingStore, sweep
    from models.runs import processor, versions

    store = EmbeddingStore(options.embeddings, dataset, extractor.spec(), extractor.widths)
    with store.lock():
        if store.path.exists() and _is_whole(store.path):  # finished while this process looked
            sweep(store.path)
            return store.path
        todo = store.missing()
        store.check_disk(todo)
        begun = time.perf_counter()
        if todo:
            extractor.prepare()
        started = time.perf_counter()
        with store.assembly() as assembly:
            extract(dataset, extractor, store, assembly, todo)
            provenance = {
                "weights_source": extractor.weights.source,
                "startup_seconds": round(started - begun, 1),
                "seconds": round(time.perf_counter() - started, 1),
                "images_in_this_pass": sum(shard.stop - shard.start for shard in todo),
                "versions": versions(),
                "processor": processor(),
                "command": options.command("features"),
            }
            embeddings = store.commit(assembly, provenance)
    say(f"written: {_describe(embeddings)}")
    return store.path


def _is_whole(path: Path) -> bool:
    """Whether a finished file holds what was written; if not, it is set aside."""
    from features.embeddings import Damaged, Embeddings
    from features.store import set_aside

    try:
        for _, problem in Embeddings(path).problems():
            if problem:
                raise Damaged(problem)
    except Damaged as error:
        say(f"{error}\n{path.name} is set aside as {set_aside(path).name}")
        return False
    return True


def _hit(options: Options, extractor: VGG16, dataset_digest: str) -> Embeddings | None:
    """The finished cache that has what is asked, by content; says how near the others come."""
    from features.catalogue import find

    asked = {**extractor.spec(), "dataset_sha256": dataset_digest, "limit": options.limit}
    fitting, _ = find(options.embeddings, asked)
    return fitting[0] if fitting else None


def _cached(options: Options) -> tuple[Embeddings, tuple[str, ...]]:
    """The one finished cache that these options name, and the layers to read from it.

    Found by the paths that were given when it was made; only where they do not decide (a folder
    has moved or changed, the weights lie elsewhere) are images and weights looked at.
    """
    from features import weights
    from features.catalogue import find, writers
    from features.datasets import open_dataset, source_of

    extractor = options.extractor("weights")
    asked = {**extractor.spec(), "dataset": source_of(options.dataset), "limit": options.limit}
    del asked["weights_sha256"]
    if options.weights is not None:
        del asked["weights"]
        asked["weights_source"] = str(Path(options.weights).expanduser().resolve())
    fitting, others = find(options.embeddings, asked)
    if len(fitting) != 1 and (others or fitting):
        if Path(asked["dataset"]).is_dir():
            del asked["dataset"]
            asked["dataset_sha256"] = open_dataset(options.dataset).digest()
        if options.weights is not None and Path(options.weights).expanduser().is_file():
            del asked["weights_source"]
            asked["weights_sha256"] = weights.load(options.weights).digest
        by_content, differing = find(options.embeddings, asked)
        fitting, others = (by_content, differing) if by_content else (fitting, others)
    if len(fitting) == 1:
        return fitting[0], extractor.layers
    run = options.command("features", "head", "seed")
    if fitting:
        names = "; ".join(f"{item.path.name} ({','.join(item.layers)})" for item in fitting)
        raise UserError(f"several caches fit: {names}; name PRECISION= and all LAYERS= of one of them")
    near = "; ".join(f"{path.name} ({'; '.join(phrases)})" for path, phrases in others[:4])
    there = f"; there is: {near}" if near else ""
    if busy := writers(options.embeddings):
        raise UserError(f"no embeddings fit yet{there}; {'; '.join(busy)}: wait for it, then run this again")
    raise UserError(f"no embeddings fit under {options.embeddings}{there}; run: {run}")


def _describe(embeddings: Embeddings) -> str:
    rows = " + ".join(f"{count:,}" for count in embeddings.rows.values())
    return (
        f"{embeddings.dataset['name']}, {rows} images, "
        f"{embeddings.spec['image_size']} px, {', '.join(embeddings.layers)}, "
        f"weights {embeddings.spec['weights']}"
    )


def _has_what_was_said(run: Run, options: Options) -> bool:
    """Whether a run has every variable that was given."""
    from features import weights
    from features.datasets import source_of
    from features.extractor import AUTO, parse_layers

    said: dict[str, Any] = {name: getattr(options, name) for name in options.said}
    have = {
        **run.spec,
        "dataset": run.dataset["source"],
        "limit": run.dataset["limit"],
        "layers": set(run.layers),
        "head": run.head,
        "seed": run.seed,
    }
    if said.get("precision") == AUTO:
        del said["precision"]
    if "dataset" in said:
        said["dataset"] = source_of(said["dataset"])
    if "weights" in said:
        said["weights"] = weights.load(said["weights"]).label
    if "layers" in said:
        said["layers"] = set(parse_layers(said["layers"], 2**20))  # any grid: the runs' sizes differ
    return all(have[name] == value for name, value in said.items() if name in have)
