"""Runs and groups of a report so small that every answer is known by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from models.heads.registry import HEADS, head
from models.runs.run import Run
from reports.context.gathering import ReportContext
from reports.context.neighbours import K, Neighbours
from reports.evaluation import evaluation, predictions_digest
from reports.report import Group, build

NAMES = ("ant", "bee", "cat", "dog")
IMAGES, TRAIN = 200, 60
LABELS = np.arange(IMAGES) % 4
FINGERPRINT, DIGEST = "f" * 64, "d" * 64
SPEC = {
    "backbone": "vgg16",
    "weights": "imagenet",
    "weights_sha256": "w" * 64,
    "image_size": 32,
    "preprocess": "imagenet",
    "precision": "float32",
    "mirror": False,
}
DATASET = {"name": "pets", "source": "pets", "digest": "d", "note": "", "limit": None}
POINTS: list[dict[str, Any]] = [{"shots": 1, "images": 4, "accuracy": [0.5]}]  # of a learning curve


def run(
    name: str,
    right: Iterable[int],
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    labels: NDArray[np.int64] = LABELS,
    validation: float = 0.5,
    **changes: Any,
) -> Run:
    """A run that has these test images right and calls any other the next class, always 70% sure.

    ``validation`` is its share of 100 validation images.
    """
    says = np.where(np.isin(np.arange(len(labels)), list(right)), labels, (labels + 1) % 4)
    known = np.arange(100) < round(100 * validation)
    return replace(
        Run(
            head=name,
            seed=seed,
            layers=("block5",),
            width=8,
            dataset=DATASET,
            class_names=NAMES,
            spec=SPEC,
            fingerprint=FINGERPRINT,
            test_digest=DIGEST,
            chosen={},
            sweep=[{"value": 1.0, "accuracy": validation, "loss": 1.0, "train_accuracy": validation}],
            history={},
            kept_epoch=None,
            seconds={"select": 3.0, "refit": 4.0, "predict": 0.05},
            train_rows=TRAIN,
            val_rows=np.arange(100),
            val_labels=np.zeros(100, np.int64),
            val_proba=probabilities(np.where(known, 0, 1)),
            test_labels=labels,
            test_proba=probabilities(says),
            **(head(name, settings).configuration(seed, TRAIN) if name in HEADS else {"grid": {}}),
        ),
        **changes,
    )


def evaluated(run: Run, right: int = 40, images: int = 50, **changes: Any) -> dict[str, Any]:
    """What ``make evaluate`` finds of a run that has so many of these images right; none is a dog."""
    labels = np.arange(images) % 3
    says = np.where(np.arange(images) < right, labels, 3)
    return {
        "run": run.folder,
        "predictions": predictions_digest(run),
        "dataset": {"digest": "e", "name": "zoo", "source": "/zoo", "limit": None},
        "scored": "the test split",
        "warnings": [],
        "test_digest": "e" * 64,
        "unknown_classes": {"emu": 2},
        "absent_classes": ["dog"],
        **evaluation(run, labels, probabilities(says)),
        "command": "make evaluate DATASET=/zoo",
        "looks": 1,
    } | changes


def probabilities(says: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(0.1 + 0.6 * np.eye(4)[says])


def group_of(*runs: Run, **context: Any) -> Group:
    """The only group of these runs."""
    (group,) = build(runs, ReportContext(**context)).groups
    return group


def drawn_again(one: Iterable[int], other: Iterable[int]) -> list[float]:
    """The interval of a difference in accuracy, by drawing the images themselves with replacement."""
    rows = np.arange(IMAGES)
    difference = np.isin(rows, list(one)).astype(int) - np.isin(rows, list(other))
    drawn = difference[np.random.default_rng(1).integers(0, IMAGES, (4000, IMAGES))].mean(axis=1)
    return [float(end) for end in np.quantile(drawn, [0.025, 0.975])]


class Cache:
    """Embeddings in memory, as if in a file of 1,234 bytes.

    A first pass was interrupted; the one that made the last 52 of 260 images took 30 s, the network 140 s
    in both.
    """

    dataset: ClassVar[dict[str, Any]] = {"digest": "d"}
    layers = ("block3", "block5")
    rows: ClassVar[dict[str, int]] = {"train": TRAIN, "test": IMAGES}
    nbytes = 1234

    def __init__(self, folder: Path) -> None:
        self.path = folder / "pets.h5"
        self.fingerprint = FINGERPRINT
        self.provenance = {"seconds": 30.0, "images_in_this_pass": 52, "network_seconds": 140.0}
        rng = np.random.default_rng(0)
        self.vectors = {split: rng.normal(size=(count, 32)) for split, count in self.rows.items()}

    def labels(self) -> NDArray[np.int64]:
        return np.arange(TRAIN) // 15

    def ids(self, split: str, rows: Sequence[int]) -> list[str]:
        return [f"{split}/{row}.png" for row in rows]

    def width(self, layer: str) -> int:
        return self.vectors["train"].shape[1]

    def blocks(
        self, split: str, layers: Sequence[str], rows: int
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        for start in range(0, self.rows[split], rows):
            yield start, self.matrix(split, layers)[start : start + rows]

    def matrix(self, split: str, layers: Sequence[str]) -> NDArray[np.float32]:
        return np.hstack([self.vectors[split].astype(np.float32) for _ in layers])

    def rows_of(self, split: str, layer: str, rows: Any) -> NDArray[np.float32]:
        return self.matrix(split, [layer])[rows]


def alike(
    similar: Mapping[int, float], all_of_them: Iterable[int] = (), layer: str = "block4@2"
) -> Neighbours:
    """Test images whose nearest training image is so similar; and those whose neighbours all are.

    The neighbours of test image ``r`` are the training images ``r``, ``r + 7``, ``r + 14``, ...
    """
    similarities = np.tile(np.linspace(0.5, 0.1, K, dtype=np.float32), (IMAGES, 1))
    for row, similarity in similar.items():
        similarities[row, 0] = similarity
    similarities[list(all_of_them)] = 0.97
    rows = (np.arange(IMAGES)[:, None] + 7 * np.arange(K)) % TRAIN
    return Neighbours(layer, rows, similarities)
