"""Learning curves: validation accuracy by the number of training images per class."""

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

SHOTS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500)  # images per class; the last point has all
FOLDER = "curves"  # beside the runs
SHAPE: dict[str, Any] = {  # of a curve's JSON
    "run": text,
    "parameters": mapping(anything),
    "points": [{"shots": number(1, sys.float_info.max), "images": count(1), "accuracy": some(number(0, 1))}],
    "sha256": mapping(sha256),
}
LEAST_STEPS = 500  # of a head with epochs, at least, since few images give few steps per epoch


def samples(shots: int) -> int:
    """The number of samples drawn for a number of images per class: more for smaller, noisier samples."""
    return 10 if shots <= 10 else 5 if shots <= 250 else 3 if shots <= 1000 else 2


@dataclass
class Curve:
    """Accuracy on validation, by images per class.

    Attributes
    ----------
    run, parameters : the folder of the run, and its parameters, which all fits use.
    points : ``shots`` (images per class; for the last point the mean over classes), ``images`` (in total)
        and ``accuracy``, one value per draw.
    rows : the stored rows of train that were drawn, for each point and draw.
    """

    run: str
    points: list[dict[str, Any]] = field(default_factory=list)
    rows: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)

    def save(self, root: Path) -> Path:
        """Write the curve atomically; returns its path. Raises UserError if it cannot be written."""
        path = path_of(root, self.run)
        buffer = io.BytesIO()
        digests = {name: _digest(rows) for name, rows in self.rows.items()}
        about = {"run": self.run, "parameters": self.parameters, "points": self.points, "sha256": digests}
        said = canonical(about | {"whole": canonical_digest(about)})
        np.savez_compressed(buffer, allow_pickle=False, about=np.array(said), **self.rows)
        save_file(path, buffer.getvalue())
        return path


def path_of(root: Path, run: str) -> Path:
    """The path of a run's curve; ``root`` is the folder of all runs."""
    return root.parent / FOLDER / f"{run}.npz"


def load(root: Path, run: Run) -> Curve | None:
    """The curve of a run; None if there is none, or one of an earlier run with other parameters.

    Curves of earlier versions have no digest; only their types and ranges are checked.

    Raises
    ------
    UserError
        The file is damaged, or belongs to another run.
    """
    path = path_of(root, run.folder)
    if not path.exists():
        return None
    try:
        rows = arrays.read(path)
        about = parsed(str(rows.pop("about")))
        _check(about, rows)
        if about["run"] != run.folder:
            raise ValueError(f"it belongs to {about['run']}")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and grow the curve again") from None
    if canonical(about["parameters"]) != canonical(run.parameters):
        return None
    return Curve(run.folder, about["points"], rows, run.parameters)


def _check(about: Any, rows: dict[str, NDArray[Any]]) -> None:
    """Raise ``ValueError`` if a curve's file has invalid content or another digest."""
    proved = isinstance(about, dict) and "whole" in about
    if (place := misfit(about, SHAPE | {"whole": sha256} if proved else SHAPE)) is not None:
        raise ValueError(f"{place} has an invalid type or value")
    said = {name: value for name, value in about.items() if name != "whole"}
    if proved and canonical_digest(said) != about["whole"]:
        raise ValueError("its numbers have another digest")
    drawn = {
        f"{point['shots']}.{draw}"
        for point in about["points"]
        if isinstance(point["shots"], int)  # the point with all images has no draw
        for draw in range(len(point["accuracy"]))
    }
    if not set(rows) == set(about["sha256"]) == drawn:
        raise ValueError("its draws are not those of its points")
    for name, drawn_rows in rows.items():
        if drawn_rows.dtype != np.int64 or _digest(drawn_rows) != about["sha256"][name]:
            raise ValueError(f"the draw {name} has another digest")


def grow(material: TrainSplit, run: Run, root: Path) -> Curve:
    """Fit the run's head, with the parameters it chose, on increasing numbers of images.

    Points that are already stored are not computed again. A head with epochs trains for as many as the run,
    but for at least ``LEAST_STEPS`` steps. Each sample is a subset of the next larger one. Samples depend on
    the dataset and the number of the draw alone, so that all heads see the same images.

    Parameters
    ----------
    material : the train split.
    run : the run.
    root : the folder of all runs.

    Raises
    ------
    UserError
        The stored curve is damaged, the head rejects the run's parameters or needs too much memory, or the
        curve cannot be written.
    """
    curve = load(root, run) or Curve(run.folder, parameters=run.parameters)
    labels, digest = material.y_fit, material.embeddings.dataset["digest"]
    sizes = np.bincount(labels)
    head = _estimator(run, len(labels))
    check_memory(run.head, head, material)
    beside, _ = head.memory_in_blocks(*material.X.shape, len(sizes))
    done = {point["shots"] for point in curve.points}
    smaller = [shots for shots in SHOTS if shots < sizes.min()]
    for shots in [*smaller, float(sizes.mean())]:
        if shots in done:
            continue
        accuracies: list[float] = []
        for draw in range(samples(int(shots)) if shots in smaller else 1):
            X, y = material.X_fit, labels  # without a copy
            if shots in smaller:
                rows = pick(labels, np.full(len(sizes), shots), f"curve {digest} {draw}")
                X, y, curve.rows[f"{shots}.{draw}"] = (
                    material.chosen(rows, beside),
                    y[rows],
                    material.fit_rows[rows],
                )
            accuracies.append(_accuracy(_estimator(run, len(y)), X, y, material))
        images = int(shots * len(sizes)) if shots in smaller else len(labels)
        curve.points.append({"shots": shots, "images": images, "accuracy": accuracies})
        say(f"{run.head}: {shots:g} images per class, validation accuracy {np.mean(accuracies):.4f}")
        curve.save(root)
    return curve


def _accuracy(estimator: BaseHead, X: Rows, y: NDArray[np.int64], material: TrainSplit) -> float:
    """Validation accuracy after a fit on these rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on few images solvers may stop early
        with refusing():
            best = estimator.fit(X, y).proba_of(material.X_val).argmax(axis=1)
    return float((estimator.classes_[best] == material.y_val).mean())


def _estimator(run: Run, images: int) -> Any:
    """The run's head, unfitted, with epochs increased to reach ``LEAST_STEPS``."""
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
