"""The stages: wiring, and nothing else. Each returns its exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from features.errors import UserError
from features.progress import say
from pipeline.caching import describe, finished_cache
from pipeline.failures import reason, told
from pipeline.options import ALL, Options
from pipeline.training import Desk, check_seeds, take_vote, train_heads


def features(options: Options) -> int:
    """Stage one: the finished cache for these options, computed if there is none; prints its path."""
    print(finished_cache(options))
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
    check_seeds(options)
    embeddings, layers = the_cache(options)
    if options.head == VOTE:
        return take_vote(options, embeddings)
    say(f"{options.head} on {describe(embeddings)}")
    return told(train_heads(options, embeddings, layers, Desk()))


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
    check_seeds(options)
    desk, caches, failed = Desk(), dict[str, Embeddings](), {}
    for number, rung in enumerate(RUNGS, start=1):
        say(f"rung {number} of {len(RUNGS)}: {rung.title}")
        asked = options.but(**rung.features, head=rung.head)
        if rung.settings:
            asked = asked.but(set=written(rung.settings))
        through = options.without("seed", "seeds", "force").but(**network(rung))
        try:
            key = through.command("features")
            if key not in caches:
                caches[key] = Embeddings(finished_cache(through))
            layers = asked.extractor("weights").layers
            for job, why in train_heads(asked, caches[key], layers, desk).items():
                failed[f"{rung.title}: {job}"] = why
        except BrokenPipeError:
            raise
        except Exception as error:
            if not caches:  # without the first pass there is nothing to go on with
                raise
            failed[rung.title] = reason(error, options, rung.title)
    return told(failed)


def curve(options: Options) -> int:
    """Validation accuracy against the number of training images, for runs that are there.

    One that fails does not stop the others; it is named at the end, with exit code 1.
    """
    from models.curve import grow, path_of
    from models.identity import is_set_as
    from models.selection import Material
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
        if run.fingerprint == embeddings.fingerprint
        and set(run.layers) == set(layers)
        and is_set_as(run, settings)
    }
    if not runs:
        raise UserError(f"no run of these layers yet; run: {options.command('train', 'force')}")
    material = Material(embeddings, layers)
    failed = {}
    for name, run in runs.items():
        try:
            grow(material, run, options.runs)
            print(path_of(options.runs, run.folder), flush=True)
        except BrokenPipeError:
            raise
        except Exception as error:
            if len(runs) == 1:
                raise
            failed[name] = reason(error, options, f"curve of {name}")
    return told(failed)


def report(options: Options) -> int:
    """All runs under ``OUT`` (those that have what was said) compared; prints the page to open."""
    from pipeline.matching import the_runs
    from pipeline.prediction import check_format
    from reports.configurations import best_first
    from reports.gathering import gather, state_of
    from reports.render import current, write
    from reports.report import build
    from reports.spreadsheet import CSV, SPREADSHEET

    check_format(options)
    form = SPREADSHEET if options.format == SPREADSHEET else CSV
    runs = the_runs(options)
    beside = gather(runs, options.runs, options.embeddings, options.archive)
    state = state_of(runs, beside, form)
    page = current(options.report, state)
    if page is not None:
        say("nothing new since this page was made:")
        print(page)
        return 0
    bests = {run.test_digest: run for run in reversed(best_first(runs))}
    pictures = {digest: beside.pictures(run) for digest, run in bests.items()}
    for run in bests.values():
        beside.look_closer(run)
    page = write(build(runs, beside), options.report, pictures, state, form)
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
        archive = embeddings.provenance.get("archive")
        dataset = open_dataset(
            options.dataset,
            options.archive,
            embeddings.dataset["limit"],
            remembered=[archive] if archive else [],
        )
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
    from pipeline.prediction import check_format, predict_images

    if not options.image:
        raise UserError("nothing to predict: name an image, a folder or - (a list on standard input): IMAGE=")
    check_format(options)
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


def _settings(options: Options) -> dict[str, Any]:
    """What ``SET`` sets, for the one head it can be meant for."""
    from models.vote import VOTE

    settings = options.settings
    if settings and options.head in (ALL, VOTE):
        raise UserError(
            f"SET={options.set}: parameters of one head, came HEAD={options.head}; name that head"
        )
    return settings
