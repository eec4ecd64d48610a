"""The caches and runs that match the options, never by file name or date."""

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
    """The finished cache that matches the options, and the layers to read from it.

    Caches are matched by the names and paths with which they were made. Only if that is not conclusive
    (images or weights have moved or changed) are images and weights hashed.

    Raises
    ------
    UserError
        No cache or several caches match.
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
        if by_content or fitting:  # several match by path, but none has the present content
            fitting, others = by_content, differing
    fitting = exact(fitting, extractor.layers)
    if fitting and len({canonical(item.spec | {"layers": 0}) for item in fitting}) == 1:
        best = min(fitting, key=lambda item: (len(item.layers), item.path.name))
        return best, extractor.layers  # the others differ only in further layers
    run = options.command("features", "head", "set", "seed")
    if fitting:
        names = "; ".join(f"{item.path.name} ({','.join(item.layers)})" for item in fitting)
        raise UserError(f"several caches fit: {names}; name PRECISION= and all LAYERS= of one of them")
    near = "; ".join(f"{path.name} ({'; '.join(phrases)})" for path, phrases in others[:4])
    there = f"; the nearest: {near}" if near else ""
    if busy := writers(options.embeddings):
        raise UserError(f"no embeddings fit yet{there}; {'; '.join(busy)}: wait for it, then run this again")
    raise UserError(f"no embeddings fit under {options.embeddings}{there}; run: {run}")


def the_runs(options: Options) -> list[Run]:
    """All runs that match the options.

    Raises
    ------
    UserError
        There are none.
    """
    every = load_all(options.runs)
    runs = [run for run in every if _has_what_was_said(run, options)]
    if not runs:
        some = f"none of the {len(every)} runs" if every else "no run"
        wanted = options.command("train", "image", "format", "to", "run", "force")
        raise UserError(f"{some} under {options.runs} fits; run: {wanted}")
    return runs


def the_run(options: Options, remedy: str = "one of them, or a run, RUN=") -> Run:
    """The run named by ``RUN`` among those that match the options, or else the one chosen on validation.

    Prints which run it is and why; for the rule see :mod:`models.runs.configurations`.

    Parameters
    ----------
    options : of the command.
    remedy : what to give if runs on several datasets match, for the message.

    Raises
    ------
    UserError
        ``RUN`` matches none or several, or no run matches the options.
    """
    from features.datasets.registry import source_of

    # of a named run, options of the network are checked below
    fitting = the_runs(options if options.run is None else options.without(*EXTRACTOR))
    if options.run is None:
        if len({run.dataset["digest"] for run in fitting}) > 1 and "dataset" in options.said:
            partly = any("unreadable" in run.dataset for run in fitting)
            now = _digest_of(source_of(options.dataset), partly)  # the images have changed
            fitting = [run for run in fitting if run.dataset["digest"] == now] or fitting
        if len({run.dataset["digest"] for run in fitting}) > 1:
            names = ", ".join(sorted({f"DATASET={shlex.quote(run.dataset['source'])}" for run in fitting}))
            raise UserError(f"runs of several datasets fit ({names}); name {remedy}")
        most = max(run.dataset["limit"] or math.inf for run in fitting)
        whole = [run for run in fitting if (run.dataset["limit"] or math.inf) == most]
        ranked = ranked_on_validation(whole)  # others have other validation images
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
    raise UserError(f"RUN={options.run}: {what} of that name among those that fit; expected one of {known}")


def _agree(run: Run, options: Options) -> None:
    """Refuse options that contradict the named run; weights are compared when they are loaded."""
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
    """The digest of a dataset as it is now."""
    from features.datasets.registry import open_dataset

    return open_dataset(source, skip_unreadable=skip_unreadable).digest()


@cache
def _label_of(network: str, path: str) -> str:
    """The label of the weights in a file."""
    from features.backbones.registry import backbone

    return backbone(network).load(path).label


def _has_what_was_said(run: Run, options: Options) -> bool:
    """Whether a run matches all given options."""
    from features.backbones.extractor import AUTO, parse_layers, store_of
    from features.backbones.registry import DEFAULT, backbone, having
    from features.datasets.registry import is_place, source_of
    from models.heads.registry import known

    said: dict[str, Any] = {name: getattr(options, name) for name in options.said}
    if said.get("head") == ALL:
        del said["head"]
    entry = known(run.head)
    if entry is not None and not entry.random:
        said.pop("seed", None)  # independent of the seed
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
        said.setdefault("backbone", DEFAULT)  # the network of these weights
        if said["backbone"] == run.spec["backbone"]:
            said["weights"] = _label_of(said["backbone"], said["weights"])
    network = backbone(said["backbone"]) if "backbone" in said else None
    if "layers" in said:  # for any image size, as the runs' differ
        said["layers"] = set(parse_layers(said["layers"], 2**20, network or having(said["layers"])))
    return all(have[name] == value for name, value in said.items() if name in have)
