"""The commands. Each calls the other modules and returns its exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from features.errors import UserError
from features.progress import say
from features.words import counted
from pipeline.caching import finished_cache
from pipeline.failures import in_users_words, reason, reported
from pipeline.options import ALL, Options
from pipeline.summary import Row, following, report_runs
from pipeline.training import TrainSplitCache, check_memory, check_seeds, take_vote, train_heads


def features(options: Options) -> int:
    """Stage one: find or compute the cache for these options; prints its path."""
    print(finished_cache(options), flush=True)
    say(f"next: {following(options, 'train')} HEAD=logistic")
    return 0


def train(options: Options) -> int:
    """Stage two: train heads on cached embeddings; prints the folder of each run.

    If one of several heads fails, the others are trained, and the exit code is 1.
    """
    from features.extraction import describe
    from models.heads.registry import head
    from models.vote import VOTE
    from pipeline.matching import the_cache

    settings, grid = _settings(options)
    if options.head not in (ALL, VOTE):
        head(options.head, settings, grid)  # errors are reported before anything is read
    check_seeds(options)
    check_memory(options)
    embeddings, layers = the_cache(options)
    if options.head == VOTE:
        return take_vote(options, embeddings)
    say(f"{options.head} on {describe(embeddings)}")
    rows, failed = train_heads(options, embeddings, layers, TrainSplitCache(options.memory))
    report_runs(rows, options)
    return reported(failed)


def ladder(options: Options) -> int:
    """Train the runs of the ladder; prints the folder of each.

    Rungs with the same network options share one pass. If a rung fails, the others are trained, and the exit
    code is 1.
    """
    from features.cache.embeddings import Embeddings
    from models.heads.parameters import written
    from models.ladder import FIXED, RUNGS, network

    for name in FIXED:
        if name in options.said:
            raise UserError(
                f"{name.upper()}={getattr(options, name)}: the ladder sets it itself; leave it out"
            )
    check_seeds(options)
    check_memory(options)
    split, caches = TrainSplitCache(options.memory), dict[str, Embeddings]()
    failed: dict[str, str] = {}
    rows: list[Row] = []
    for number, rung in enumerate(RUNGS, start=1):
        say(f"rung {number} of {len(RUNGS)}: {rung.title}")
        asked = options.replace(**rung.features, head=rung.head)
        if rung.settings:
            asked = asked.replace(set=written(rung.settings))
        through = options.without("seed", "seeds", "force").replace(**network(rung))
        try:
            key = through.command("features")
            if key not in caches:
                caches[key] = Embeddings(finished_cache(through))
            layers = asked.extractor("weights").layers
            there, not_there = train_heads(asked, caches[key], layers, split)
            rows += there
            failed |= {f"{rung.title}: {job}": why for job, why in not_there.items()}
        except BrokenPipeError:
            raise
        except Exception as error:
            if not caches:  # the first pass failed
                raise
            failed[rung.title] = reason(error, options, rung.title)
    report_runs(rows, options)
    return reported(failed)


def curve(options: Options) -> int:
    """Compute learning curves of existing runs; prints the path of each.

    If one of several curves fails, the others are computed, and the exit code is 1.
    """
    from models.curve import grow, path_of
    from models.trainsplit import TrainSplit
    from models.vote import VOTE
    from pipeline.matching import the_cache, the_runs

    settings, grid = _settings(options)
    check_memory(options)
    embeddings, layers = the_cache(options)
    if options.head == VOTE:
        raise UserError("a vote has no learning curve; name one of its heads, or all, HEAD=")
    said = options.without("dataset", "archive", "limit", "weights")  # all four are part of the fingerprint
    runs = {
        run.head: run
        for run in reversed(the_runs(said))
        if run.fingerprint == embeddings.fingerprint
        and set(run.layers) == set(layers)
        and run.is_set_as(settings, grid)
    }
    if not runs:
        raise UserError(f"no run of these layers yet; run: {options.command('train', 'force')}")
    material = TrainSplit(embeddings, layers, options.memory)
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
    return reported(failed)


def report(options: Options) -> int:
    """Write the report on all runs under ``OUT`` that match the options; prints the path of its page."""
    from pipeline.matching import the_runs
    from pipeline.predict import check_format
    from reports.context.gathering import gather, state_of
    from reports.page.render import current, write
    from reports.page.spreadsheet import CSV, SPREADSHEET
    from reports.report import build
    from reports.statistics.ranking import best_first

    check_format(options)
    check_memory(options)
    form = SPREADSHEET if options.format == SPREADSHEET else CSV
    runs = the_runs(options)
    context = gather(runs, options.runs, options.embeddings, options.archive)
    state = state_of(runs, context, form)
    page = current(options.report, state)
    if page is not None:
        say("nothing new since this page was made:")
        print(page)
        return 0
    bests = {run.test_digest: run for run in reversed(best_first(runs))}
    pictures = {digest: context.pictures(run) for digest, run in bests.items()}
    for run in bests.values():
        context.look_closer(run, options.memory)
    if len(context.maps) < len(context.neighbours):
        state = ""  # a map did not fit: this page is not the last word
    page = write(build(runs, context), options.report, pictures, state, form)
    say(f"{counted(len(runs), 'run')} compared; open this page:")
    print(page)
    return 0


def verify(options: Options) -> int:
    """Verify a cache and embed a sample of its images again; returns 0 if all checks pass, else 1.

    Caches that are too damaged to be opened count as failed checks.
    """
    from features.cache.verification import checks, unopened
    from pipeline.matching import the_cache

    found = list(unopened(options.embeddings))
    try:
        embeddings, _ = the_cache(options)
        archive = embeddings.provenance.get("archive")
        dataset = options.replace(limit=embeddings.dataset["limit"]).images(
            skip_unreadable="unreadable" in embeddings.dataset, remembered=[archive] if archive else []
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
            print(f"FAILED {name}: {in_users_words(problem)}" if problem else f"ok     {name}")
    return 0 if well else 1


def predict(options: Options) -> int:
    """Predict new images with the head of a run; returns 1 if any could not be read, else 0."""
    from pipeline.matching import the_run
    from pipeline.predict import check_format, predict_images

    if not options.image:
        raise UserError("nothing to predict: name an image, a folder or - (a list on standard input): IMAGE=")
    check_format(options)
    check_memory(options)
    return predict_images(options, the_run(options))


def evaluate(options: Options) -> int:
    """Evaluate the head of a run on other labelled images; prints and saves the scores."""
    from pipeline.evaluate import evaluate_images

    check_memory(options)
    return evaluate_images(options)


def export(options: Options) -> int:
    """Export the head of a run as a scikit-learn or Keras object; prints its path."""
    from models.runs.export import write
    from models.runs.saving import load
    from pipeline.matching import the_run

    if options.to is None:
        raise UserError("nowhere to export to: name a file, TO=head.joblib (of a Keras head: TO=head.keras)")
    run = load(options.runs / the_run(options).folder, with_head=True, trust=bool(options.trust))
    path = write(run, Path(options.to).expanduser())
    if path.suffix == ".joblib":
        say("a .joblib file runs code when loaded: share it with care")
    print(path)
    return 0


def _settings(options: Options) -> tuple[dict[str, Any], dict[str, tuple[Any, ...]]]:
    """The parameters in ``SET`` and ``SCALE`` and the grid in ``GRID``; refused for several heads."""
    from models.vote import VOTE

    if options.head in (ALL, VOTE):
        for name in ("set", "scale", "grid"):
            if (value := getattr(options, name)) is not None:
                raise UserError(
                    f"{name.upper()}={value}: parameters of one head, got HEAD={options.head}; name it"
                )
    return options.settings, options.swept
