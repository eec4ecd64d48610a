"""How accuracy grows with the number of training images per class: the learning curve of a run."""

from __future__ import annotations

import hashlib
import io
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.cache.embeddings import canonical, canonical_digest
from features.datasets.splits import pick
from features.errors import UserError
from features.files import save_file
from features.progress import say
from features.shapes import anything, count, mapping, misfit, number, parsed, sha256, some, text
from models import arrays
from models.heads.base import BaseHead
from models.heads.blocks import Rows
from models.heads.refusal import refusing
from models.heads.registry import remade
from models.runs.run import Run
from models.selection import check_memory
from models.trainsplit import TrainSplit

SHOTS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500)  # images per class; after them: all
FOLDER = "curves"  # beside the runs
SHAPE: dict[str, Any] = {  # of what a curve says
    "run": text,
    "parameters": mapping(anything),
    "points": [{"shots": number(1, sys.float_info.max), "images": count(1), "accuracy": some(number(0, 1))}],
    "sha256": mapping(sha256),
}
LEAST_STEPS = 500  # of a head with epochs: the epochs of a full run are next to nothing on few images


def samples(shots: int) -> int:
    """How many samples of so many images per class are drawn: more where they differ more."""
    return 10 if shots <= 10 else 5 if shots <= 250 else 3 if shots <= 1000 else 2


@dataclass
class Curve:
    """Accuracy on validation, by images per class.

    Attributes
    ----------
    run, parameters : folder of the run, and its parameters, which the fits have.
    points : ``shots`` (images per class; of the last point: the mean over classes), ``images`` (all
        together) and ``accuracy``, one value a draw.
    rows : for each point and draw, the stored rows of train that were drawn.
    """

    run: str
    points: list[dict[str, Any]] = field(default_factory=list)
    rows: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)

    def save(self, root: Path) -> Path:
        """Write the curve beside its run, whole or not at all."""
        path = path_of(root, self.run)
        buffer = io.BytesIO()
        digests = {name: _digest(rows) for name, rows in self.rows.items()}
        about = {"run": self.run, "parameters": self.parameters, "points": self.points, "sha256": digests}
        said = canonical(about | {"whole": canonical_digest(about)})
        np.savez_compressed(buffer, allow_pickle=False, about=np.array(said), **self.rows)
        save_file(path, buffer.getvalue())
        return path


def path_of(root: Path, run: str) -> Path:
    """Where the curve of a run is kept; ``root`` is the folder of all runs."""
    return root.parent / FOLDER / f"{run}.npz"


def load(root: Path, run: Run) -> Curve | None:
    """The curve of a run, or None where there is none, or one of the run that this one replaced.

    One of an earlier version has no digest of its numbers, and is held to their types and ranges alone.

    Raises
    ------
    UserError
        The file is damaged, or of another run.
    """
    path = path_of(root, run.folder)
    if not path.exists():
        return None
    try:
        rows = arrays.read(path)
        about = parsed(str(rows.pop("about")))
        _check(about, rows)
        if about["run"] != run.folder:
            raise ValueError(f"it is of {about['run']}")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and grow the curve again") from None
    if canonical(about["parameters"]) != canonical(run.parameters):
        return None
    return Curve(run.folder, about["points"], rows, run.parameters)


def _check(about: Any, rows: dict[str, NDArray[Any]]) -> None:
    """Refuse, with ``ValueError``, what a curve's file cannot say, or what has not its digest."""
    proved = isinstance(about, dict) and "whole" in about
    if (place := misfit(about, SHAPE | {"whole": sha256} if proved else SHAPE)) is not None:
        raise ValueError(f"{place} is not of the kind or range that it must be")
    said = {name: value for name, value in about.items() if name != "whole"}
    if proved and canonical_digest(said) != about["whole"]:
        raise ValueError("its numbers have another digest")
    drawn = {
        f"{point['shots']}.{draw}"
        for point in about["points"]
        if isinstance(point["shots"], int)  # of all images there is no draw
        for draw in range(len(point["accuracy"]))
    }
    if not set(rows) == set(about["sha256"]) == drawn:
        raise ValueError("its draws are not those of its points")
    for name, drawn_rows in rows.items():
        if drawn_rows.dtype != np.int64 or _digest(drawn_rows) != about["sha256"][name]:
            raise ValueError(f"the draw {name} has another digest")


def grow(material: TrainSplit, run: Run, root: Path) -> Curve:
    """Fit the run's head, as validation chose it, on ever more images; what is there is kept.

    A head with epochs gets as many as the full run, but no fewer than ``LEAST_STEPS`` steps.
    Each draw is nested in the next larger one. The rows depend on the dataset and the draw's
    number alone, so that every head at every resolution sees the same images.
    """
    curve = load(root, run) or Curve(run.folder, parameters=run.parameters)
    labels, digest = material.y_fit, material.embeddings.dataset["digest"]
    sizes = np.bincount(labels)
    check_memory(run.head, _estimator(run, len(labels)), material)
    done = {point["shots"] for point in curve.points}
    smaller = [shots for shots in SHOTS if shots < sizes.min()]
    for shots in [*smaller, float(sizes.mean())]:
        if shots in done:
            continue
        accuracies: list[float] = []
        for draw in range(samples(int(shots)) if shots in smaller else 1):
            X, y = material.X_fit, labels  # all of them are not copied
            if shots in smaller:
                rows = pick(labels, np.full(len(sizes), shots), f"curve {digest} {draw}")
                X, y, curve.rows[f"{shots}.{draw}"] = material.chosen(rows), y[rows], material.fit_rows[rows]
            accuracies.append(_accuracy(_estimator(run, len(y)), X, y, material))
        images = int(shots * len(sizes)) if shots in smaller else len(labels)
        curve.points.append({"shots": shots, "images": images, "accuracy": accuracies})
        say(f"{run.head}: {shots:g} images per class, validation accuracy {np.mean(accuracies):.4f}")
        curve.save(root)
    return curve


def _accuracy(estimator: BaseHead, X: Rows, y: NDArray[np.int64], material: TrainSplit) -> float:
    """On validation, after a fit on these rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a solver that stops early is part of the picture
        with refusing():
            best = estimator.fit(X, y).proba_of(material.X_val).argmax(axis=1)
    return float((estimator.classes_[best] == material.y_val).mean())


def _estimator(run: Run, images: int) -> Any:
    """The run's head, unfitted, with its epochs stretched to ``LEAST_STEPS`` where images are few."""
    settings = dict(run.parameters)
    try:
        remade(run.head, run.seed, settings).check()
    except (ValueError, TypeError) as error:
        raise UserError(f"{run.folder} has parameters that {run.head} does not take: {error}") from None
    if "epochs" in settings:
        kept = settings["stop_epoch"] or settings["epochs"]
        steps = kept * max(images // settings["batch_size"], 1)
        stretch = max(-(-LEAST_STEPS // steps), 1)
        settings |= {"epochs": stretch * settings["epochs"], "stop_epoch": stretch * kept}
    return remade(run.head, run.seed, settings)


def _digest(rows: NDArray[np.int64]) -> str:
    return hashlib.sha256(rows.astype(np.int64).tobytes()).hexdigest()
