"""Entry: the numbers of one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.backbones.registry import marked
from features.cache.embeddings import Embeddings
from models.heads.registry import known
from models.runs.run import Run
from reports.context.gathering import ReportContext
from reports.statistics.calibration import calibration, coverage
from reports.statistics.diagnosis import diagnosis
from reports.statistics.metrics import scores
from reports.statistics.ranking import precision_of

CONFUSED = 8  # most confused pairs of classes shown


@dataclass(frozen=True)
class Entry:
    """The numbers of one run.

    ``accuracy``, ``macro_f1`` and ``balanced_accuracy`` have ``value``, ``low`` and ``high``; ``raw`` and
    ``scaled`` are the calibration before and after temperature scaling; ``train_accuracy`` is None for a
    vote; ``confused`` lists the most frequent confusions; ``costs`` are seconds and bytes, those of the
    cache None if it no longer exists.
    """

    id: str
    name: str
    folder: str
    head: str
    about: str
    seed: int
    backbone: str
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
    sweep: list[dict[str, Any]]
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
        """Seconds of model selection and refit together."""
        return self.seconds["select"] + self.seconds["refit"]

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics averaged over seeds besides accuracy; ECE and log loss are after temperature scaling."""
        return {
            "balanced_accuracy": self.balanced_accuracy["value"],
            "macro_f1": self.macro_f1["value"],
            "ece_scaled": self.scaled["ece"]["value"],
            "log_loss_scaled": self.scaled["log_loss"],
        }

    @property
    def traits(self) -> dict[str, str]:
        """The properties of the embedding, in words."""
        return {
            "backbone": self.backbone,
            "layers": " + ".join(self.layers),
            "image_size": f"{self.image_size} px",
            "preprocess": f"{self.preprocess} preprocessing",
            "precision": self.precision,
            "mirror": "with mirror images" if self.mirror else "",
            "weights": f"{self.weights} weights",
        }

    def extreme(self, metric: str, best: bool) -> dict[str, Any]:
        """The class with the highest or lowest ``precision``, ``recall`` or ``f1``."""
        return (max if best else min)(self.per_class, key=lambda row: row[metric])


def entry_of(run: Run, name: str, runs: Sequence[Run], context: ReportContext) -> Entry:
    """The entry of a run.

    Parameters
    ----------
    run : the run.
    name : its name in the report.
    runs : all runs on the same test images.
    context : what lies beside the runs.
    """
    spec = run.spec
    weights = "" if spec["weights"] == "imagenet" else f", weights {spec['weights']}"
    network = marked(spec["backbone"])
    embedding = (
        f"{network}{', ' if network else ''}{' + '.join(run.layers)} at {spec['image_size']} px, "
        f"{spec['preprocess']} preprocessing, {precision_of(spec)}"
        f"{', with mirror images' if spec['mirror'] else ''}{weights}"
    )
    curve = context.curves.get(run.folder)
    points = curve.points if curve else []
    numbers = scores(run.test_labels, run.test_proba, run.class_names)
    return Entry(
        id=run.id,
        name=name,
        folder=run.folder,
        head=run.head,
        about=_about(run),
        seed=run.seed,
        backbone=spec["backbone"],
        embedding=embedding,
        layers=run.layers,
        width=run.width,
        image_size=spec["image_size"],
        preprocess=spec["preprocess"],
        precision=precision_of(spec),
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
        costs=_costs(run, context.caches.get(run.fingerprint)),
        fingerprint=run.fingerprint,
        weights_sha256=spec.get("weights_sha256", ""),
        dataset_sha256=run.dataset["digest"],
        versions=run.versions,
        processor=run.processor,
        command=run.command,
    )


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
    """Seconds of the network for all images, of the fit and of 1,000 predictions; bytes of the cache."""
    extract, size = None, None
    if cache is not None:
        extract = float(cache.provenance["network_seconds"])
        size = float(cache.nbytes)
    return {
        "extract_seconds": extract,
        "cache_bytes": size,
        "fit_seconds": run.seconds["select"] + run.seconds["refit"],
        "predict_seconds_per_1000": 1000 * run.seconds["predict"] / len(run.test_labels),
    }


def _reached(run: Run, runs: Sequence[Run]) -> float:
    """The best validation accuracy of any other head on the same vectors; 0 if there is none."""
    others = [
        other.val_accuracy
        for other in runs
        if other.head != run.head
        and not other.members
        and other.fingerprint == run.fingerprint
        and set(other.layers) == set(run.layers)
    ]
    return max(others, default=0.0)


def _about(run: Run) -> str:
    """A description of the head in one line."""
    if run.members:
        return "soft vote of saved runs"
    entry = known(run.head)
    return entry.about if entry is not None else "a classifier of another package"
