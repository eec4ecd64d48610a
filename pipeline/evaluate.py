"""From other labelled images to a printed score of a trained head."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from features.datasets.base import SPLITS, Dataset
from features.errors import UserError
from features.progress import progress, say
from pipeline.caching import list_left_out
from pipeline.predict import network_of, visible

if TYPE_CHECKING:
    from models.runs.run import Run
    from pipeline.options import Options

FORMATS = ("table", "json")
FORMAT = 1  # of the files below OUT/evaluations


def evaluate_images(options: Options) -> int:
    """Score a run on the labelled images of ``DATASET``; prints the numbers and keeps them as a file.

    Raises
    ------
    UserError
        No dataset was named, it has no class of the run, or what :func:`pipeline.matching.the_run` raises.
    """
    from features.cache.embeddings import slug
    from features.files import write_whole
    from models.runs import looks
    from models.runs.identity import test_digest_of
    from models.runs.predictor import Predictor
    from pipeline.matching import the_run
    from reports.evaluation import evaluation

    if options.format not in FORMATS:
        raise UserError(f"FORMAT={options.format}: expected one of {', '.join(FORMATS)}")
    if "dataset" not in options.said:
        raise UserError("nothing to score: name labelled images, DATASET=path/to/images")
    dataset = options.images()
    list_left_out(dataset, options)
    run = the_run(options.without("dataset", "archive", "limit"), "a run, RUN=")
    numbers = {name: number for number, name in enumerate(run.class_names)}
    if not numbers.keys() & set(dataset.class_names):
        raise UserError(
            f"{dataset.name} has none of the classes that {run.folder} knows "
            f"({', '.join(run.class_names[:8])}); name its class folders as the run's, or another RUN="
        )
    digest, own = dataset.digest(), _own_test(options, run)
    whole, why = _whole(dataset, run, own)
    splits = SPLITS if whole else ("test",)
    ids = [name for split in splits for name in dataset.ids(split)]
    theirs = np.concatenate([dataset.labels(split) for split in splits])
    labels = np.array([numbers.get(name, -1) for name in dataset.class_names])[theirs]
    known = labels >= 0
    looked_at = test_digest_of(digest, dataset.limit, dataset.class_names, ids, theirs)
    same = looked_at == run.test_digest or own == (ids, labels.tolist())

    predictor = Predictor(run, options.runs, trust=bool(options.trust))
    extractor = network_of(options, run, predictor.layers)
    parts = []
    with progress(len(labels), "embed", "img") as bar:
        for pixels in _batches(dataset, splits, extractor.batch, extractor.image_size):
            parts.append(predictor.predict_proba(extractor.embed(pixels)))
            bar.update(len(pixels))
    proba: NDArray[np.float64] = np.concatenate(parts)
    unknown = {
        name: int((theirs == number).sum())
        for number, name in enumerate(dataset.class_names)
        if name not in numbers
    }
    document = {
        "format": FORMAT,
        "run": run.folder,
        "dataset": {"name": dataset.name, "source": dataset.source, "digest": digest, "limit": dataset.limit},
        "scored": why,
        "test_digest": looked_at,
        "unknown_classes": unknown,
        "absent_classes": [name for name in run.class_names if name not in dataset.class_names],
        **evaluation(run, labels[known], proba[known], same),
        "command": options.command("evaluate"),
    }
    path = options.evaluations / f"{run.folder}--{slug(dataset.name)}-{looked_at[:12]}.json"
    try:
        looks.record(options.runs, looked_at, run.id)
        document["looks"] = looks.count(options.runs, looked_at)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; make room or choose another OUT=") from None
    if options.format == "json":
        print(json.dumps(document, ensure_ascii=False))
    else:
        _show(document)
    say(f"written: {path}")
    return 0


def _own_test(options: Options, run: Run) -> tuple[list[str], list[int]] | None:
    """Ids and labels of the run's own test images; None where its cache is gone or damaged."""
    from features.cache.embeddings import Embeddings

    for path in sorted(options.embeddings.glob("*.h5")):
        try:
            cache = Embeddings(path)
            if cache.fingerprint == run.fingerprint:
                return cache.ids("test"), run.test_labels.tolist()
        except UserError:
            continue
    return None


def _whole(dataset: Dataset, run: Run, own: tuple[list[str], list[int]] | None) -> tuple[bool, str]:
    """Whether all images are scored, not the test split alone, and what was scored in words.

    All, where they have no test split of their own; but not where the run was trained on these images,
    or on others of the same names, which may be the same ones processed again.
    """
    if not dataset.held_out:
        return False, "the test split"
    if dataset.source == run.dataset["source"] or dataset.digest() == run.dataset["digest"]:
        return False, "the held-out fifth, as the run was trained on these images"
    if own is not None and dataset.ids("test") == own[0]:
        return False, "the held-out fifth, as its files are named as the run's own test images"
    return True, "all images, as they have no test split"


def _batches(dataset: Dataset, splits: tuple[str, ...], batch: int, size: int) -> Iterator[NDArray[np.uint8]]:
    """The splits' images ``(<= batch, size, size, 3)`` in order, the next read meanwhile."""
    slices = [
        (split, start, min(start + batch, rows))
        for split in splits
        for rows in [len(dataset.labels(split))]
        for start in range(0, rows, batch)
    ]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(dataset.images, *slices[0], size)
        for following in slices[1:]:
            pixels, waiting = waiting.result(), pool.submit(dataset.images, *following, size)
            yield pixels
        yield waiting.result()


def _show(found: dict[str, Any]) -> None:
    """The numbers as lines and a table."""

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
    print(f"scored      {visible(found['dataset']['name'])}: {found['scored']}; {found['images']:,} images")
    print(f"accuracy    {interval(found['accuracy'])}; own test split {interval(own['accuracy'])}")
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
    print(f"looks       {found['looks']} at these images so far, this one included")
    print(f"\n{'class':<20} {'recall':>8} {'precision':>10} {'images':>8}")
    for row in found["per_class"]:
        print(
            f"{visible(row['class']):<20} {share(row['recall']):>8} {share(row['precision']):>10} "
            f"{row['support']:>8,}"
        )
