"""Evaluation of a run on other labelled images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.datasets.base import SPLITS, Dataset
from features.datasets.splits import stratified
from features.errors import UserError
from features.progress import progress, say
from features.words import counted
from pipeline.caching import list_left_out
from pipeline.predict import check_format, network_of, say_passes, visible

if TYPE_CHECKING:
    from models.runs.run import Run
    from pipeline.options import Options

FORMATS = ("table", "json")


def evaluate_images(options: Options) -> int:
    """Evaluate a run on the labelled images in ``DATASET``; prints and saves the scores.

    Raises
    ------
    UserError
        No dataset was given, or it has no class of the run; or as :func:`pipeline.matching.the_run`.
    """
    from features.ahead import read_ahead
    from models.runs import looks
    from models.runs.changes import changing
    from models.runs.identity import test_digest_of
    from models.runs.predictor import Predictor
    from pipeline.matching import the_run
    from reports.context import evaluations
    from reports.evaluation import evaluation

    check_format(options, FORMATS)
    if "dataset" not in options.said:
        raise UserError("nothing to score: name labelled images, DATASET=path/to/images")
    dataset = options.images()
    list_left_out(dataset, options)
    run = the_run(options.without("dataset", "archive", "limit"), "a run, RUN=")
    numbers = {name: number for number, name in enumerate(run.class_names)}
    if not numbers.keys() & set(dataset.class_names):
        raise UserError(
            f"{dataset.name} has none of the classes that {run.folder} knows "
            f"({', '.join(run.class_names[:8])}); rename its class folders to match, or name another RUN="
        )
    own = _ids_of(options, run)
    whole = dataset if dataset.limit is None else options.replace(limit=None).images()
    every, why = _is_every_image_scored(whole, run, own)
    images = _every_image(whole, dataset.limit) if every else _test_split(dataset)
    labels = np.array([numbers.get(name, -1) for name in dataset.class_names])[images.labels]
    known = labels >= 0
    looked_at = test_digest_of(
        dataset.digest(), dataset.limit, dataset.class_names, images.ids, images.labels
    )
    rows = np.arange(len(labels)) if looked_at == run.test_digest else None
    if rows is None and own is not None:
        rows = _rows_in(run, own["test"], dataset, images.ids, labels)
    warnings = _seen_in_training(run, own, dataset, images.ids)
    for warning in warnings:
        say(f"note: {warning}")

    predictor = Predictor(run, options.runs, trust=bool(options.trust), memory=options.memory)
    say_passes(predictor)
    extractor = network_of(options, run, predictor.layers)
    batch = extractor.batch

    def read(start: int) -> NDArray[np.uint8]:
        return images.read(start, min(start + batch, len(labels)), extractor.image_size)

    def embedded(reader: Executor, advance: Callable[[int], object]) -> Iterator[tuple[None, dict[str, Any]]]:
        for pixels in read_ahead(reader, read, range(0, len(labels), batch)):
            yield None, extractor.embed(pixels)
            advance(len(pixels))

    with progress(len(labels), "embed", "img") as bar, ThreadPoolExecutor(1) as reader:
        parts = [part for _, part in predictor.predict_each(embedded(reader, bar.update))]
    proba: NDArray[np.float64] = np.concatenate(parts)
    unknown = {
        name: int((images.labels == number).sum())
        for number, name in enumerate(dataset.class_names)
        if name not in numbers
    }
    about = ("name", "source", "limit")
    document = {
        "dataset": {"digest": dataset.digest(), **{name: getattr(dataset, name) for name in about}},
        "scored": why,
        "warnings": warnings,
        "test_digest": looked_at,
        "unknown_classes": unknown,
        "absent_classes": [name for name in run.class_names if name not in dataset.class_names],
        **evaluation(run, labels[known], proba[known], rows),
        "command": options.command("evaluate", "format"),
    }
    with changing(options.runs):
        _, line = looks.following(options.runs, looked_at, run.id)
        looks.append(options.runs, line)
        count = looks.read(options.runs).counts[looked_at]
    path, document = evaluations.save(options.runs, run, document | {"looks": count})
    if options.format == "json":
        print(json.dumps(document, ensure_ascii=False))
    else:
        _show(document)
    say(f"written: {path}")
    return 0


class _Images(NamedTuple):
    """The images to evaluate: ids, class numbers ``(n,)``, and ``read(start, stop, size)`` for pixels."""

    ids: list[str]
    labels: NDArray[np.int64]
    read: Callable[[int, int, int], NDArray[np.uint8]]


def _test_split(dataset: Dataset) -> _Images:
    return _Images(dataset.ids("test"), dataset.labels("test"), partial(dataset.images, "test"))


def _every_image(dataset: Dataset, limit: int | None) -> _Images:
    """Both splits of a dataset, concatenated, or a stratified sample of ``limit`` images."""
    dataset.digest()  # so that later changes of files are detected
    ids = [name for split in SPLITS for name in dataset.ids(split)]
    labels = np.concatenate([dataset.labels(split) for split in SPLITS])
    rows = np.arange(len(labels))
    if limit is not None:
        if limit < len(dataset.class_names):
            raise UserError(
                f"LIMIT={limit} is too small: each of the {len(dataset.class_names)} classes of "
                f"{dataset.name} needs an image; raise LIMIT"
            )
        rows = stratified(labels, min(limit, len(labels)), "limit evaluate")
    first = len(dataset.labels("train"))

    def read(start: int, stop: int, size: int) -> NDArray[np.uint8]:
        taken = rows[start:stop]
        parts = {"train": taken[taken < first], "test": taken[taken >= first] - first}
        return np.concatenate([dataset.read(split, part, size) for split, part in parts.items()])

    return _Images([ids[row] for row in rows], labels[rows], read)


def _ids_of(options: Options, run: Run) -> dict[str, list[str]] | None:
    """The ids of the images of a run, by split; None if its cache is missing or damaged."""
    from features.cache.catalogue import with_fingerprint

    cache = with_fingerprint(options.embeddings, run.fingerprint)
    try:
        return None if cache is None else {split: cache.ids(split) for split in SPLITS}
    except UserError:
        return None


def _rows_in(
    run: Run, own: list[str], dataset: Dataset, ids: list[str], labels: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """The rows of these images in the run's test split, ``(n,)``; None if they are other images.

    Any subset of the run's own dataset is recognised by its ids. In another dataset, which may have the
    same images processed differently, all ids must be equal, in the same order.
    """
    place = {name: row for row, name in enumerate(own)}
    if ids != own and (dataset.digest() != run.dataset["digest"] or not place.keys() >= set(ids)):
        return None
    rows = np.array([place[name] for name in ids])
    return rows if np.array_equal(run.test_labels[rows], labels) else None


def _seen_in_training(
    run: Run, own: dict[str, list[str]] | None, dataset: Dataset, ids: list[str]
) -> list[str]:
    """Warnings if the run may have been trained on some of the images to evaluate."""
    from features.datasets.folder import Folder
    from features.datasets.registry import is_place

    source = run.dataset["source"]
    if not (is_place(source) and (Path(dataset.source).is_dir() or isinstance(dataset, Folder))):
        return []  # only file names identify images across datasets
    if own is None:
        if dataset.source == source and dataset.digest() != run.dataset["digest"]:
            return [
                "the folder has changed since the run was trained on it, and its embeddings are gone: images "
                "it was trained on may be among those scored"
            ]
        return []
    seen = len(set(ids) & set(own["train"]))
    if not seen:
        return []
    which = f"{seen:,} of {counted(len(ids), 'image')}" if seen < len(ids) else "all images"
    return [
        f"{which} scored {'has' if seen == 1 else 'have'} the name of an image that the run was trained on: "
        "if it is the same image, the accuracy here is too high"
    ]


def _is_every_image_scored(dataset: Dataset, run: Run, own: dict[str, list[str]] | None) -> tuple[bool, str]:
    """Whether to evaluate all images instead of the test split, and a description of the choice.

    All are evaluated if the dataset has no test split, unless the run was trained on these images or on
    images with the same ids, which may be the same ones processed differently.
    """
    if not dataset.held_out:
        return False, "the test split"
    if dataset.source == run.dataset["source"] or dataset.digest() == run.dataset["digest"]:
        return False, "the held-out fifth, as the run was trained on these images"
    if own is not None and set(own["test"]) <= set(dataset.ids("test")):
        return False, "the held-out fifth, as its files are named as the run's own test images"
    return True, "all images, as they have no test split"


def _show(found: dict[str, Any]) -> None:
    """Print the scores as lines and a table."""

    def share(value: float | None) -> str:
        return "–" if value is None else f"{value:.4f}"

    def interval(number: dict[str, float]) -> str:
        return f"{number['value']:.4f} ({number['low']:.4f}–{number['high']:.4f})"

    own, change = found["own_test"], found["difference"]
    how = (
        f"the same images, McNemar p = {change['p']:.4f}"
        if change["method"] == "paired"
        else "independent samples"
    )
    points = [f"{100 * change[name]:+.1f}" for name in ("value", "low", "high")]
    print(f"run         {found['run']}")
    images = counted(found["images"], "image")
    print(f"scored      {visible(found['dataset']['name'])}: {found['scored']}; {images}")
    print(f"accuracy    {interval(found['accuracy'])}; own test split {interval(own['accuracy'])}")
    print(f"balanced    {interval(found['balanced_accuracy'])}; macro F1 {interval(found['macro_f1'])}")
    print(f"difference  {points[0]} points ({points[1]} to {points[2]}); {how}")
    for name, text in (("ece", "ECE       "), ("log_loss", "log loss  ")):
        here, there = found["calibration"][name], own["calibration"][name]
        if name == "ece":
            print(f"{text}  {interval(here)}; own test split {interval(there)}")
        else:
            print(f"{text}  {here:.4f}; own test split {there:.4f}")
    if found["absent_classes"]:
        names = visible(", ".join(found["absent_classes"]))
        print(f"absent      {names}: no images here, left out of the own test split too")
    if found["unknown_classes"]:
        names = visible(", ".join(f"{name} ({count:,})" for name, count in found["unknown_classes"].items()))
        print(f"not scored  images of classes that the run does not know: {names}")
    for warning in found["warnings"]:
        print(f"warning     {visible(warning)}")
    print(f"looks       {found['looks']} at these images so far, this one included")
    print(f"\n{'class':<20} {'recall':>8} {'precision':>10} {'images':>8}")
    for row in found["per_class"]:
        print(
            f"{visible(row['class']):<20} {share(row['recall']):>8} {share(row['precision']):>10} "
            f"{row['support']:>8,}"
        )
