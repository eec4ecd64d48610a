"""One Report object holds every number; JSON, Markdown and HTML render it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from features.embeddings import Embeddings
from models.heads import HEADS
from models.ladder import RUNGS, matches
from models.runs import Run
from reports.answer import COMPARED, answer
from reports.calibration import calibration, coverage
from reports.configurations import (
    Seeds,
    best_first,
    chosen_on_validation,
    first_seeds,
    is_right,
    names_of,
    seeds_of,
)
from reports.diagnosis import diagnosis
from reports.galleries import Gallery, galleries
from reports.gathering import Beside
from reports.metrics import DRAWS, LEVEL, scores
from reports.neighbours import (
    CALIBRATED,
    CALIBRATED_SIZE,
    NEAR_DUPLICATE,
    Neighbours,
    crowded,
    near_duplicates,
)
from reports.paired import Pair, bootstrap_difference, compare, discordant

SCHEMA = 3  # of report.json; docs/report.schema.json describes it
CONFUSED = 8  # pairs of classes named


@dataclass(frozen=True)
class Entry:
    """One run and what its test predictions amount to.

    ``accuracy``, ``macro_f1`` and ``balanced_accuracy`` are ``value``, ``low`` and ``high``;
    ``raw`` and ``scaled`` are the calibration before and after temperature scaling;
    ``train_accuracy`` is None for a vote; ``confused`` names the most frequent errors; ``costs`` are
    seconds and bytes, None if the cache is gone.
    """

    id: str
    name: str
    folder: str
    head: str
    about: str
    seed: int
    embedding: str
    layers: tuple[str, ...]
    width: int
    image_size: int
    preprocess: str
    precision: str
    mirror: bool
    weights: str
    train_images: int
    accuracy: dict[str, float]
    balanced_accuracy: dict[str, float]
    macro_f1: dict[str, float]
    per_class: list[dict[str, Any]]
    confusion: list[list[int]]
    confused: list[dict[str, Any]]
    text: str
    train_accuracy: float | None
    validation_accuracy: float
    asked: dict[str, Any]
    chosen: dict[str, Any]
    sweep: list[dict[str, float]]
    history: dict[str, list[float]]
    kept_epoch: int | None
    diagnosis: dict[str, str]
    warnings: list[str]
    temperature: float
    raw: dict[str, Any]
    scaled: dict[str, Any]
    coverage: list[dict[str, float]]
    curve: list[dict[str, Any]]
    members: dict[str, float]
    seconds: dict[str, float]
    costs: dict[str, float | None]
    fingerprint: str
    weights_sha256: str
    dataset_sha256: str
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
class Rung:
    """One step of the ladder.

    ``gain`` is in accuracy over the rung it stands on, with its paired bootstrap 95% interval; all
    three are None on the first and where that rung was not climbed.
    """

    title: str
    id: str
    value: float
    low: float
    high: float
    gain: float | None
    gain_low: float | None
    gain_high: float | None


@dataclass(frozen=True)
class Group:
    """Runs that answered the same test images, so that they may share a table; best first.

    ``looks`` is the number of final predictions of these images so far, of runs now gone too.
    ``duplicates`` counts test images that all but stand in the training split (None where that cannot
    be told), and what the best run reaches without them.
    """

    test_digest: str
    dataset: str
    source: dict[str, Any]
    note: str
    limit: int | None
    class_names: tuple[str, ...]
    test_images: int
    looks: int
    answer: str
    entries: tuple[Entry, ...]
    pairs: tuple[Pair, ...]
    seeds: tuple[Seeds, ...]
    ladder: tuple[Rung, ...]
    galleries: tuple[Gallery, ...]
    duplicates: dict[str, Any] | None
    map: dict[str, Any] | None

    @property
    def configurations(self) -> tuple[Entry, ...]:
        """The entries without the further seeds of any."""
        further = {id for seeds in self.seeds for id in seeds.ids[1:]}
        return tuple(entry for entry in self.entries if entry.id not in further)

    @property
    def origins(self) -> list[dict[str, Any]]:
        """Weights, precision, processor and versions, each combination once, with its number of runs."""
        names = ("weights", "weights_sha256", "precision", "processor", "versions")
        found: list[dict[str, Any]] = []
        for entry in self.entries:
            origin = {name: getattr(entry, name) for name in names}
            same = next((each for each in found if each | {"runs": 0} == origin | {"runs": 0}), None)
            if same is None:
                found.append(origin | {"runs": 1})
            else:
                same["runs"] += 1
        return found

    def entry(self, id: str) -> Entry:
        """The entry of this id."""
        return next(entry for entry in self.entries if entry.id == id)


@dataclass(frozen=True)
class Report:
    """All groups, largest test split first."""

    schema: int
    created: str
    level: float
    draws: int
    groups: tuple[Group, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def build(runs: Sequence[Run], beside: Beside | None = None) -> Report:
    """Compute the report of these runs, grouped by ``test_digest``."""
    beside = beside or Beside()
    together: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        together[run.test_digest].append(run)
    groups = [_group(digest, found, beside) for digest, found in together.items()]
    groups.sort(key=lambda group: -group.test_images)
    return Report(SCHEMA, time.strftime("%Y-%m-%d %H:%M %Z"), LEVEL, DRAWS, tuple(groups))


def _group(digest: str, runs: list[Run], beside: Beside) -> Group:
    runs = best_first(runs)
    names = names_of(runs)
    entries = Parallel(n_jobs=-1, prefer="threads")(
        delayed(_entry)(run, name, runs, beside) for run, name in zip(runs, names, strict=True)
    )
    first, best = runs[0], entries[0]
    firsts = first_seeds(runs)
    correct = {run.id: is_right(run) for run in firsts[:COMPARED]}
    pairs = tuple(compare(correct))
    by_id = dict(zip((run.id for run in runs), names, strict=True))
    seeds = tuple(seeds_of(runs, by_id))
    found = beside.neighbours.get(first.fingerprint)
    return Group(
        test_digest=digest,
        dataset=first.dataset["name"],
        source=first.dataset,
        note=first.dataset["note"],
        limit=first.dataset["limit"],
        class_names=first.class_names,
        test_images=len(first.test_labels),
        looks=beside.looks.get(digest, 0),
        answer=answer(entries, pairs, seeds, chosen_on_validation(runs), len(first.test_labels)),
        entries=tuple(entries),
        pairs=pairs,
        seeds=seeds,
        ladder=tuple(_ladder(firsts, entries)),
        galleries=tuple(galleries(firsts, by_id, beside.caches.get(first.fingerprint), found)),
        duplicates=None if found is None else _duplicates(found, first, best.name),
        map=beside.maps.get(first.id),
    )


def _entry(run: Run, name: str, runs: Sequence[Run], beside: Beside) -> Entry:
    spec = run.spec
    weights = "" if spec["weights"] == "imagenet" else f", weights {spec['weights']}"
    embedding = (
        f"{' + '.join(run.layers)} at {spec['image_size']} px, {spec['preprocess']} preprocessing, "
        f"{spec['precision']}{', with mirror images' if spec['mirror'] else ''}{weights}"
    )
    curve = beside.curves.get(run.folder)
    points = curve.points if curve else []
    numbers = scores(run.test_labels, run.test_proba, run.class_names)
    return Entry(
        id=run.id,
        name=name,
        folder=run.folder,
        head=run.head,
        about=HEADS[run.head].about if run.head in HEADS else "soft vote of saved runs",
        seed=run.seed,
        embedding=embedding,
        layers=run.layers,
        width=run.width,
        image_size=spec["image_size"],
        preprocess=spec["preprocess"],
        precision=spec["precision"],
        mirror=spec["mirror"],
        weights=spec["weights"],
        train_images=run.train_rows,
        **numbers,
        confused=_confused(np.array(numbers["confusion"]), run.class_names),
        train_accuracy=None if run.members else run.train_accuracy,
        validation_accuracy=run.val_accuracy,
        asked=run.asked,
        chosen=run.chosen,
        sweep=run.sweep,
        history=run.history,
        kept_epoch=run.kept_epoch,
        diagnosis=diagnosis(run, _reached(run, runs), points),
        warnings=run.warnings,
        temperature=run.temperature,
        raw=calibration(run.test_labels, run.test_proba),
        scaled=calibration(run.test_labels, run.test_scaled),
        coverage=coverage(run.test_labels, run.test_scaled),
        curve=points,
        members=run.members,
        seconds=run.seconds,
        costs=_costs(run, beside.caches.get(run.fingerprint)),
        fingerprint=run.fingerprint,
        weights_sha256=spec.get("weights_sha256", ""),
        dataset_sha256=run.dataset["digest"],
        versions=run.versions,
        processor=run.processor,
        command=run.command,
    )


def _ladder(firsts: Sequence[Run], entries: Sequence[Entry]) -> list[Rung]:
    """The rungs that were climbed, all in one precision and with one set of weights.

    A gain is told only where the rung that it stands on was climbed too.
    """
    ways: dict[tuple[str, str], dict[int, Run]] = defaultdict(dict)
    for each in sorted(firsts, key=lambda each: each.id):
        for place, rung in enumerate(RUNGS):
            if matches(rung, each):
                ways[each.spec["precision"], each.spec["weights"]].setdefault(place, each)
    climbed = max(ways.values(), key=len, default={})
    by_id = {entry.id: entry for entry in entries}
    found: list[Rung] = []
    below: Run | None = None
    for place, rung in enumerate(RUNGS):
        run = climbed.get(place)
        if run is not None:
            gain, low, high = (None, None, None) if below is None else _gain(run, below)
            found.append(
                Rung(rung.title, run.id, **by_id[run.id].accuracy, gain=gain, gain_low=low, gain_high=high)
            )
        if not rung.sibling:
            below = run
    return found if len(found) > 2 else []


def _gain(run: Run, below: Run) -> tuple[float, float, float]:
    """Accuracy over another run's on the same images, and its paired interval."""
    only = discordant(is_right(run), is_right(below))
    images = len(run.test_labels)
    return ((only[0] - only[1]) / images, *bootstrap_difference(*only, images))


def _confused(confusion: NDArray[np.int64], names: Sequence[str]) -> list[dict[str, Any]]:
    wrong = confusion * (1 - np.eye(len(confusion), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSED]
    pairs = [divmod(int(place), len(names)) for place in order]
    return [
        {
            "true": names[true],
            "predicted": names[predicted],
            "images": int(wrong[true, predicted]),
            "share": float(wrong[true, predicted] / max(1, confusion[true].sum())),
        }
        for true, predicted in pairs
        if wrong[true, predicted]
    ]


def _costs(run: Run, cache: Embeddings | None) -> dict[str, float | None]:
    """Seconds and bytes: the network on all images, the cache on disk, predictions of 1,000 vectors."""
    extract, size = None, None
    if cache is not None:
        extract = float(cache.provenance["network_seconds"])
        size = float(cache.path.stat().st_size)
    return {
        "extract_seconds": extract,
        "cache_bytes": size,
        "fit_seconds": run.seconds["select"] + run.seconds["refit"],
        "predict_seconds_per_1000": 1000 * run.seconds["predict"] / len(run.test_labels),
    }


def _duplicates(found: Neighbours, run: Run, name: str) -> dict[str, Any]:
    """How many test images all but stand in the training split; None where that cannot be told."""
    rows, told = near_duplicates(found), not crowded(found)
    correct = is_right(run)
    rest = np.delete(correct, rows)
    return {
        "layer": found.layer,
        "threshold": NEAR_DUPLICATE,
        "rough": (found.layer, run.spec["image_size"]) != (CALIBRATED, CALIBRATED_SIZE),
        "images": len(rows) if told else None,
        "share": len(rows) / len(correct) if told else None,
        "name": name,
        "accuracy": float(correct.mean()),
        "accuracy_without": float(rest.mean()) if told and len(rest) else None,
    }


def _reached(run: Run, runs: Sequence[Run]) -> float:
    """The best validation accuracy of another head on the same vectors."""
    others = [
        other.val_accuracy
        for other in runs
        if other.head != run.head
        and not other.members
        and other.fingerprint == run.fingerprint
        and set(other.layers) == set(run.layers)
    ]
    return max(others, default=0.0)
