"""Which caches and runs the options mean: by what was said, never by a file's name or date."""

from __future__ import annotations

import math
import shlex
from functools import cache
from pathlib import Path
from typing import Any

from features.cache.embeddings import Embeddings, canonical
from features.errors import UserError
from features.files import given_path, is_file
from features.progress import say
from models.runs.collection import load_all
from models.runs.configurations import ranked_on_validation, reason
from models.runs.run import Run
from pipeline.options import ALL, EXTRACTOR, Options


def the_cache(options: Options) -> tuple[Embeddings, tuple[str, ...]]:
    """The one finished cache that these options name, and the layers to read from it.

    Found by the names and paths that were given when it was made; only where they do not decide (images
    have moved or changed, the weights lie elsewhere) are images and weights looked at.
    """
    from features.cache.catalogue import exact, find, writers
    from features.datasets.registry import is_place, source_of

    extractor = options.extractor("weights")
    asked = {**extractor.spec(), "dataset": source_of(options.dataset), "limit": options.limit}
    asked.pop("weights_sha256", None)
    if options.weights is not None:
        del asked["weights"]
        asked["weights_source"] = str(given_path("weights", options.weights).resolve())
    fitting, others = find(options.embeddings, asked)
    states = {(item.dataset["digest"], item.spec["weights_sha256"]) for item in fitting}
    if len(states) != 1 and (others or fitting):
        if is_place(asked["dataset"]) or len({item.dataset["digest"] for item in fitting}) > 1:
            partly = any("unreadable" in item.dataset for item in fitting)
            del asked["dataset"]
            asked["dataset_sha256"] = options.images(skip_unreadable=partly).digest()
        if options.weights is not None and is_file(given_path("weights", options.weights)):
            del asked["weights_source"]
            asked["weights_sha256"] = extractor.backbone.load(options.weights).digest
        by_content, differing = find(options.embeddings, asked)
        if by_content or fitting:  # where several fit by path, and none is of what lies there now: none
            fitting, others = by_content, differing
    fitting = exact(fitting, extractor.layers)
    if fitting and len({canonical(item.spec | {"layers": 0}) for item in fitting}) == 1:
        best = min(fitting, key=lambda item: (len(item.layers), item.path.name))
        return best, extractor.layers  # the others differ in layers that are not asked for
    run = options.command("features", "head", "set", "seed")
    if fitting:
        names = "; ".join(f"{item.path.name} ({','.join(item.layers)})" for item in fitting)
        raise UserError(f"several caches fit: {names}; name PRECISION= and all LAYERS= of one of them")
    near = "; ".join(f"{path.name} ({'; '.join(phrases)})" for path, phrases in others[:4])
    there = f"; there is: {near}" if near else ""
    if busy := writers(options.embeddings):
        raise UserError(f"no embeddings fit yet{there}; {'; '.join(busy)}: wait for it, then run this again")
    raise UserError(f"no embeddings fit under {options.embeddings}{there}; run: {run}")


def the_runs(options: Options) -> list[Run]:
    """Every run that has what was said.

    Raises
    ------
    UserError
        There is none.
    """
    every = load_all(options.runs)
    runs = [run for run in every if _has_what_was_said(run, options)]
    if not runs:
        some = f"none of the {len(every)} runs" if every else "no run"
        wanted = options.command("train", "image", "format", "to", "run", "force")
        raise UserError(f"{some} under {options.runs} fits; run: {wanted}")
    return runs


def the_run(options: Options, remedy: str = "one of them, or a run, RUN=") -> Run:
    """The run that ``RUN`` names among those that fit, or else the one that validation chooses.

    Which it is and why is reported in one line; the rule is that of :mod:`models.runs.configurations`.
    ``remedy`` is what to name where runs of several datasets fit.

    Raises
    ------
    UserError
        ``RUN`` names none or several, or none fits.
    """
    from features.datasets.registry import source_of

    # which network made it is not asked of a run that is named, but compared below
    fitting = the_runs(options if options.run is None else options.without(*EXTRACTOR))
    if options.run is None:
        if len({run.dataset["digest"] for run in fitting}) > 1 and "dataset" in options.said:
            partly = any("unreadable" in run.dataset for run in fitting)
            now = _digest_of(source_of(options.dataset), partly)  # images have changed since some of them
            fitting = [run for run in fitting if run.dataset["digest"] == now] or fitting
        if len({run.dataset["digest"] for run in fitting}) > 1:
            names = ", ".join(sorted({f"DATASET={shlex.quote(run.dataset['source'])}" for run in fitting}))
            raise UserError(f"runs of several datasets fit ({names}); name {remedy}")
        most = max(run.dataset["limit"] or math.inf for run in fitting)
        whole = [run for run in fitting if (run.dataset["limit"] or math.inf) == most]
        ranked = ranked_on_validation(whole)  # the others were validated on other images
        run = ranked[0].runs[0]
        say(f"{run.head} of {run.folder}: {reason(ranked)}")
        return run
    name = Path(options.run.rstrip("/")).name
    named = [run for run in fitting if run.folder == name] or [
        run for run in fitting if name and name in run.folder
    ]
    if len(named) == 1:
        (run,) = named
        _agree(run, options)
        say(f"{run.head} of {run.folder}: validation accuracy {run.val_accuracy:.4f}; named by RUN=")
        return run
    known = ", ".join(run.folder for run in (named or fitting)[:8])
    what = "several runs" if named else "no run"
    raise UserError(f"RUN={options.run}: {what} of that name among those that fit; there is: {known}")


def _agree(run: Run, options: Options) -> None:
    """Refuse, by its name, a variable that says what the named run is not; weights are compared later."""
    from features.backbones.extractor import store_of

    have = {**run.spec, "layers": ",".join(run.layers), "store": store_of(run.spec)}
    for name in ("backbone", "layers", "image_size", "preprocess", "precision", "mirror", "store"):
        others = (other for other in options.said if other != name)
        if name in options.said and not _has_what_was_said(run, options.without(*others)):
            got = getattr(options, name)
            raise UserError(
                f"{name.upper()}={got}: the run {run.folder} was trained with {have[name]}; leave it out, "
                "or name another RUN="
            )


@cache
def _digest_of(source: str, skip_unreadable: bool = False) -> str:
    """The digest of images that may have changed, or be others' under a new name."""
    from features.datasets.registry import open_dataset

    return open_dataset(source, skip_unreadable=skip_unreadable).digest()


@cache
def _label_of(network: str, path: str) -> str:
    """What the weights in a file are called."""
    from features.backbones.registry import backbone

    return backbone(network).load(path).label


def _has_what_was_said(run: Run, options: Options) -> bool:
    """Whether a run has every variable that was given."""
    from features.backbones.extractor import AUTO, parse_layers, store_of
    from features.backbones.registry import DEFAULT, backbone, having
    from features.datasets.registry import is_place, source_of
    from models.heads.registry import known

    said: dict[str, Any] = {name: getattr(options, name) for name in options.said}
    if said.get("head") == ALL:
        del said["head"]
    entry = known(run.head)
    if entry is not None and not entry.random:
        said.pop("seed", None)  # it does not depend on the seed: its one run is that of every seed
    have = {
        **run.spec,
        "store": store_of(run.spec),
        "dataset": run.dataset["source"],
        "limit": run.dataset["limit"],
        "layers": set(run.layers),
        "head": run.head,
        "seed": run.seed,
    }
    if {"set", "scale", "grid"} & said.keys() and not run.is_set_as(options.settings, options.swept):
        return False
    if said.get("precision") == AUTO:
        del said["precision"]
    if "dataset" in said:
        said["dataset"] = source_of(said["dataset"])
        if said["dataset"] != have["dataset"] and is_place(said["dataset"]):
            said["dataset"] = _digest_of(said["dataset"], "unreadable" in run.dataset)
            have["dataset"] = run.dataset["digest"]
    if "weights" in said:
        said.setdefault("backbone", DEFAULT)  # whose weights they are
        if said["backbone"] == run.spec["backbone"]:
            said["weights"] = _label_of(said["backbone"], said["weights"])
    network = backbone(said["backbone"]) if "backbone" in said else None
    if "layers" in said:  # of any size: the runs' differ
        said["layers"] = set(parse_layers(said["layers"], 2**20, network or having(said["layers"])))
    return all(have[name] == value for name, value in said.items() if name in have)
