"""One Report object holds every number; JSON, Markdown and HTML render it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from joblib import Parallel, delayed

from models.runs import Run
from reports.metrics import LEVEL, diagnosis, scores

SCHEMA = 1  # of report.json


@dataclass(frozen=True)
class Entry:
    """One run and what its test predictions amount to (see ``metrics.scores``)."""

    id: str
    folder: str
    head: str
    seed: int
    embedding: str
    layers: tuple[str, ...]
    width: int
    image_size: int
    preprocess: str
    precision: str
    weights: str
    train_images: int
    accuracy: dict[str, float]
    macro_f1: dict[str, float]
    per_class: list[dict[str, Any]]
    confusion: list[list[int]]
    text: str
    validation_accuracy: float
    chosen: dict[str, Any]
    sweep: list[dict[str, float]]
    history: dict[str, list[float]]
    kept_epoch: int | None
    diagnosis: dict[str, str] | None
    seconds: dict[str, float]
    fingerprint: str
    versions: dict[str, str]
    processor: str
    command: str

    @property
    def fit_seconds(self) -> float:
        """Choosing and refitting together."""
        return self.seconds["select"] + self.seconds["refit"]

    def extreme(self, metric: str, best: bool) -> dict[str, Any]:
        """The class with the highest or lowest ``precision``, ``recall`` or ``f1``."""
        return (max if best else min)(self.per_class, key=lambda row: row[metric])


@dataclass(frozen=True)
class Group:
    """Runs that answered the same test images, so that they may share a table; best first.

    ``looks`` is the number of final predictions of these images so far, of runs now gone too.
    """

    test_digest: str
    dataset: str
    note: str
    limit: int | None
    class_names: tuple[str, ...]
    test_images: int
    looks: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Report:
    """All groups, largest test split first."""

    schema: int
    created: str
    level: float
    groups: tuple[Group, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def build(runs: list[Run], looks: Mapping[str, int]) -> Report:
    """Compute the report of these runs, grouped by ``test_digest``; ``looks`` are by digest too."""
    entries = Parallel(n_jobs=-1, prefer="threads")(delayed(_entry)(run, _reached(run, runs)) for run in runs)
    together: dict[str, list[tuple[Run, Entry]]] = defaultdict(list)
    for run, entry in zip(runs, entries, strict=True):
        together[run.test_digest].append((run, entry))
    groups = [_group(digest, pairs, looks.get(digest, 0)) for digest, pairs in together.items()]
    groups.sort(key=lambda group: -group.test_images)
    return Report(SCHEMA, time.strftime("%Y-%m-%d %H:%M %Z"), LEVEL, tuple(groups))


def _group(digest: str, pairs: list[tuple[Run, Entry]], looks: int) -> Group:
    run = pairs[0][0]
    ranked = sorted((entry for _, entry in pairs), key=lambda entry: -entry.accuracy["value"])
    return Group(
        test_digest=digest,
        dataset=run.dataset["name"],
        note=run.dataset["note"],
        limit=run.dataset["limit"],
        class_names=run.class_names,
        test_images=len(run.test_labels),
        looks=looks,
        entries=tuple(ranked),
    )


def _entry(run: Run, reached: float) -> Entry:
    spec = run.spec
    weights = "" if spec["weights"] == "imagenet" else f", weights {spec['weights']}"
    embedding = (
        f"{' + '.join(run.layers)} at {spec['image_size']} px, {spec['preprocess']} preprocessing, "
        f"{spec['precision']}{weights}"
    )
    return Entry(
        id=run.id,
        folder=run.folder,
        head=run.head,
        seed=run.seed,
        embedding=embedding,
        layers=run.layers,
        width=run.width,
        image_size=spec["image_size"],
        preprocess=spec["preprocess"],
        precision=spec["precision"],
        weights=spec["weights"],
        train_images=run.train_rows,
        **scores(run.test_labels, run.test_proba, run.class_names),
        validation_accuracy=_validation_accuracy(run),
        chosen=run.chosen,
        sweep=run.sweep,
        history=run.history,
        kept_epoch=run.kept_epoch,
        diagnosis=diagnosis(run.history, run.kept_epoch or 0, reached, len(run.class_names)),
        seconds=run.seconds,
        fingerprint=run.fingerprint,
        versions=run.versions,
        processor=run.processor,
        command=run.command,
    )


def _validation_accuracy(run: Run) -> float:
    return float((run.val_proba.argmax(axis=1) == run.val_labels).mean())


def _reached(run: Run, runs: list[Run]) -> float:
    """The best validation accuracy of another head on the same vectors."""
    others = [
        _validation_accuracy(other)
        for other in runs
        if other.head != run.head
        and other.fingerprint == run.fingerprint
        and set(other.layers) == set(run.layers)
    ]
    return max(others, default=0.0)
