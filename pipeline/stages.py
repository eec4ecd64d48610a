"""The stages: wiring, and nothing else. Each returns its exit code."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import UserError
from features.progress import progress, say
from pipeline.options import ALL, Options

if TYPE_CHECKING:
    from features.datasets import Dataset
    from features.embeddings import Embeddings
    from features.extractor import VGG16
    from models.runs import Run
    from models.selection import Material


def features(options: Options) -> int:
    """Stage one: the finished cache for these options, computed if there is none; prints its path."""
    print(_cache(options))
    return 0


def train(options: Options) -> int:
    """Stage two: heads on the cached embeddings; prints the folder of each run.

    One that fails does not stop the others; it is named at the end, with exit code 1.
    """
    from models.heads import head
    from models.vote import VOTE
    from pipeline.matching import the_cache

    settings = _settings(options)
    if options.head not in (ALL, VOTE):
        head(options.head, settings)  # what is wrong with it is told before anything is read
    if options.seeds < 1:
        raise UserError(f"SEEDS={options.seeds}: expected a number of runs, 1 or more")
    embeddings, layers = the_cache(options)
    if options.head == VOTE:
        return _vote(options, embeddings)
    say(f"{options.head} on {_describe(embeddings)}")
    return _told(_train(options, embeddings, layers, _Desk()))


def ladder(options: Options) -> int:
    """The runs that say where the gain over the baseline comes from; prints the folder of each.

    Rungs that read one network share one pass of it. A rung that fails does not stop the others; it
    is named at the end, with exit code 1.
    """
    from features.embeddings import Embeddings
    from models.ladder import FIXED, RUNGS, network
    from models.parameters import written

    for name in FIXED:
        if name in options.said:
            raise UserError(
                f"{name.upper()}={getattr(options, name)}: the ladder sets it itself; leave it out"
            )
    if options.seeds < 1:
        raise UserError(f"SEEDS={options.seeds}: expected a number of runs, 1 or more")
    desk, caches, failed = _Desk(), dict[str, Embeddings](), {}
    for number, rung in enumerate(RUNGS, start=1):
        say(f"rung {number} of {len(RUNGS)}: {rung.title}")
        asked = options.but(**rung.features, head=rung.head)
        if rung.settings:
            asked = asked.but(set=written(rung.settings))
        through = options.without("seed", "seeds", "force").but(**network(rung))
        try:
            key = through.command("features")
            if key not in caches:
                caches[key] = Embeddings(_cache(through))
            layers = asked.extractor("weights").layers
            for job, reason in _train(asked, caches[key], layers, desk).items():
                failed[f"{rung.title}: {job}"] = reason
        except Exception as error:
            if not caches:  # without the first pass there is nothing to go on with
                raise
            failed[rung.title] = _reason(error)
    return _told(failed)


def curve(options: Options) -> int:
    """Validation accuracy against the number of training images, for runs that are there."""
    from models.curve import grow, path_of
    from models.selection import Material, is_set_as
    from models.vote import VOTE
    from pipeline.matching import the_cache, the_runs

    settings = _settings(options)
    embeddings, layers = the_cache(options)
    if options.head == VOTE:
        raise UserError("a vote has no curve of its own; name one of its heads, or all, HEAD=")
    said = options.without("dataset", "archive", "limit", "weights")  # the fingerprint holds all four
    runs = {
        run.head: run
        for run in reversed(the_runs(said))
        if run.fingerprint == embeddings.fingerprint and run.layers == layers and is_set_as(run, settings)
    }
    if not runs:
        raise UserError(f"no run of these layers yet; run: {options.command('train', 'force')}")
    material = Material(embeddings, layers)
    failed = {}
    for name, run in runs.items():
        try:
            grow(material, run, options.runs)
            print(path_of(options.runs, run.folder), flush=True)
        except Exception as error:
            failed[name] = _reason(error)
    return _told(failed)


def report(options: Options) -> int:
    """All runs under ``OUT`` (those that have what was said) compared; prints the page to open."""
    from pipeline.matching import the_runs
    from reports.configurations import best_first
    from reports.gathering import gather, state_of
    from reports.pictures import Pictures
    from reports.render import current, write
    from reports.report import build

    runs = the_runs(options)
    beside = gather(runs, options.runs, options.embeddings)
    state = state_of(runs, beside)
    page = current(options.report, state)
    if page is not None:
        say("nothing new since this page was made:")
        print(page)
        return 0
    bests = {run.test_digest: run for run in reversed(best_first(runs))}
    for run in bests.values():
        beside.look_closer(run)
    pictures = {digest: Pictures(run.dataset) for digest, run in bests.items()}
    page = write(build(runs, beside), options.report, pictures, state)
    say(f"{len(runs)} runs compared; open this page:")
    print(page)
    return 0


def verify(options: Options) -> int:
    """Check every digest of a cache and embed a sample again; 0 if all is well, else 1.

    Every cache that is too damaged to tell whether it is the one that is asked for fails by name.
    """
    from features.datasets import open_dataset
    from features.verification import checks, unopened
    from pipeline.matching import the_cache

    found = list(unopened(options.embeddings))
    try:
        embeddings, _ = the_cache(options)
        dataset = open_dataset(options.dataset, options.archive, embeddings.dataset["limit"])
        rest = checks(embeddings, dataset, options.weights)
    except UserError as error:
        if not found:
            raise
        rest = iter([("the cache that is asked for", str(error))])
    well = True
    for group in (found, rest):
        for name, problem in group:
            well = well and problem is None
            print(f"{'ok    ' if problem is None else 'FAILED'} {name}{f': {problem}' if problem else ''}")
    return 0 if well else 1


def predict(options: Options) -> int:
    """What a run's head says of new images; 1 if any could not be read, else 0."""
    from pipeline.matching import the_run
    from pipeline.prediction import FORMATS, predict_images

    if options.image is None:
        raise UserError("nothing to predict: name an image, a folder or - (a list on standard input): IMAGE=")
    if options.format not in FORMATS:
        raise UserError(f"FORMAT={options.format}: expected one of {', '.join(FORMATS)}")
    return predict_images(options, the_run(options))


def export(options: Options) -> int:
    """A run's head as a plain scikit-learn or Keras object, for use elsewhere; prints its path."""
    from models.export import write
    from models.runs import load
    from pipeline.matching import the_run

    if options.to is None:
        raise UserError("nowhere to export to: name a file, TO=head.joblib (or .keras for a Keras head)")
    run = load(options.runs / the_run(options).folder, with_head=True)
    path = write(run, Path(options.to).expanduser())
    say(f"{run.folder} exported; whoever loads a .joblib file runs the code in it: share it with care")
    print(path)
    return 0


@dataclass
class _Desk:
    """Where the train split lies that was read last; the next head on the same layers finds it there."""

    material: Material | None = None

    def get(self, embeddings: Embeddings, layers: tuple[str, ...]) -> Material:
        """The train split of these layers; another one goes first, as two would fill the memory."""
        from models.selection import Material

        there = self.material
        if there is None or (there.embeddings.path, there.layers) != (embeddings.path, layers):
            there = self.material = None
            self.material = Material(embeddings, layers)
        return self.material  # type: ignore[return-value]


def _settings(options: Options) -> dict[str, Any]:
    """What ``SET`` sets, for the one head it can be meant for."""
    from models.vote import VOTE

    settings = options.settings
    if settings and options.head in (ALL, VOTE):
        raise UserError(
            f"SET={options.set}: parameters of one head, came HEAD={options.head}; name that head"
        )
    return settings


def _train(options: Options, embeddings: Embeddings, layers: tuple[str, ...], desk: _Desk) -> dict[str, str]:
    """Train what ``HEAD`` and ``SEEDS`` name and print the folders; which of several failed, and why."""
    from models.heads import HEADS

    names = list(HEADS) if options.head == ALL else [options.head]
    jobs = [
        (name, options.seed + step)
        for name in names
        for step in range(options.seeds if HEADS[name].draws else 1)
    ]
    if options.seeds > 1 and len(names) == 1 and len(jobs) == 1:
        say(f"{options.head} draws nothing at random: one run says all that {options.seeds} would")
    failed = {}
    with progress(len(jobs), "train", "run") as bar:
        for name, seed in jobs:
            try:
                folder = _trained(options, embeddings, layers, name, seed)
                if folder is None:
                    folder = _train_one(options, desk.get(embeddings, layers), name, seed)
                print(folder, flush=True)
            except Exception as error:
                if len(jobs) == 1:
                    raise
                failed[f"{name} with seed {seed}"] = _reason(error)
            bar.update()
    return failed


def _reason(error: Exception) -> str:
    """Why one of several jobs failed, in a line; what nobody foresaw has the name of its kind before it."""
    first = (str(error).splitlines() or [""])[0]
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"


def _told(failed: dict[str, str]) -> int:
    """Name what failed; the exit code."""
    for job, reason in failed.items():
        say(f"failed: {job}: {reason}")
    return 1 if failed else 0


def _trained(
    options: Options, embeddings: Embeddings, layers: tuple[str, ...], name: str, seed: int
) -> Path | None:
    """The folder of an equal run that is there already, unless ``FORCE`` wants another."""
    from models.runs import find
    from models.selection import identity

    asked = identity(embeddings, layers, name, seed, options.settings)
    found = None if options.force else find(options.runs, asked)
    if found is not None:
        say(f"{name}: there already, not trained again (FORCE=1 would)")
    return found


def _train_one(options: Options, material: Material, name: str, seed: int) -> Path:
    from models.selection import train as train_head

    run = train_head(material, name, seed, options.settings)
    cached = options.but(precision=material.embeddings.spec["precision"])  # whatever auto takes elsewhere
    said = cached.command("train", "force", "seeds", "seed", "head")
    run.command = f"{said} HEAD={name}" + (f" SEED={run.seed}" if run.seed else "")
    return _saved(options, run)


def _vote(options: Options, embeddings: Embeddings) -> int:
    from models.runs import load_all
    from models.vote import eligible, vote

    run = vote(eligible(load_all(options.runs), embeddings))
    run.width = sum(embeddings.width(layer) for layer in run.layers)
    run.command = options.command("train", "force")
    if not options.force and (options.runs / run.folder / "run.json").exists():
        say(f"{run.head}: there already, not looked at again (FORCE=1 would)")
        print(options.runs / run.folder)
    else:
        print(_saved(options, run))
    return 0


def _saved(options: Options, run: Run) -> Path:
    folder = run.save(options.runs)
    accuracy = float((run.test_proba.argmax(axis=1) == run.test_labels).mean())
    say(f"{run.head}: test accuracy {accuracy:.4f}, {sum(run.seconds.values()):.1f} s")
    return folder


def _cache(options: Options) -> Path:
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
    say(f"cached and verified in {time.perf_counter() - started:.1f} s: {_describe(hit)}")
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
            extractor.prepare()
        started = time.perf_counter()
        with store.assembly() as assembly:
            network = extract(dataset, extractor, store, assembly, todo)
            provenance = {
                "weights_source": extractor.weights.source,
                "startup_seconds": round(started - begun, 1),
                "seconds": round(time.perf_counter() - started, 1),
                "network_seconds": round(network, 1),
                "images_in_this_pass": sum(shard.stop - shard.start for shard in todo),
                "versions": versions(),
                "processor": processor(),
                "command": options.command("features"),
            }
            embeddings = store.commit(assembly, provenance)
    say(f"written: {_describe(embeddings)}")
    return store.path


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
    from features.catalogue import find

    asked = {**extractor.spec(), "dataset_sha256": dataset_digest, "limit": options.limit}
    fitting, others = find(options.embeddings, asked)
    if tell and others and not fitting:
        path, phrases = others[0]
        say(f"not cached yet; the nearest is {path.name} ({'; '.join(phrases)})")
    return fitting[0] if fitting else None


def _describe(embeddings: Embeddings) -> str:
    rows = " + ".join(f"{count:,}" for count in embeddings.rows.values())
    return (
        f"{embeddings.dataset['name']}, {rows} images, "
        f"{embeddings.spec['image_size']} px, {', '.join(embeddings.layers)}, "
        f"weights {embeddings.spec['weights']}"
    )
