"""Stored evaluations on other labelled images."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from features.cache.embeddings import canonical_digest, slug
from features.errors import UserError
from features.files import save_file
from features.progress import say
from features.shapes import Shape, count, either, fits, none_or, number, read, sha256, text
from models.runs.run import Run
from reports.evaluation import predictions_digest

FOLDER = "evaluations"  # beside the runs
FORMAT = 2
CLOSE = 1e-9  # tolerance for rounding


def path_of(root: Path, document: dict[str, Any]) -> Path:
    """The path of an evaluation; ``root`` is the folder of all runs."""
    about = f"{slug(document['dataset']['name'])}-{document['test_digest'][:12]}"
    return root.parent / FOLDER / f"{document['run']}--{about}.json"


def save(root: Path, run: Run, document: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Save an evaluation atomically; an earlier one of the same run and images is replaced.

    Returns
    -------
    tuple
        The path, and the document as written: with its format, the digest of the run's predictions, and its
        own digest.

    Raises
    ------
    UserError
        The file cannot be written.
    """
    document = {"format": FORMAT, "run": run.folder, "predictions": predictions_digest(run), **document}
    document["sha256"] = canonical_digest(document)
    path = path_of(root, document)
    save_file(path, (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode())
    return path, document


def load_all(root: Path, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The evaluations of these runs, sorted by file name. Damaged or outdated ones are skipped with a note.

    Checked are the digest, the type, range and length of all values, and consistency with the run, whose
    evaluations are outdated once it is trained again with other predictions.
    """
    by_folder = {run.folder: run for run in runs}
    found = []
    for path in sorted((root.parent / FOLDER).glob("[!.]*.json")):
        try:
            document = _read(path)
            run = by_folder.get(document["run"])
            if path.name != path_of(root, document).name:
                raise UserError(f"{path} was copied or renamed; remove it")
            if run is None:  # deleted, or not in this report
                continue
            if document["predictions"] != predictions_digest(run):
                raise UserError(f"{path}: its run was trained again since; run: {document['command']}")
            if not _is_of(document, run):
                raise UserError(f"{path} does not fit its run; remove it, then run: {document['command']}")
            found.append(document)
        except UserError as error:
            say(f"note: passed over: {error}")
    return found


def _read(path: Path) -> dict[str, Any]:
    """Read and verify an evaluation."""
    try:
        document = read(path)
        if isinstance(document, dict) and document.get("format") != FORMAT:
            raise UserError(
                f"{path} has format {document.get('format')}, this Headroom reads {FORMAT}; score it again"
            )
        rest = {name: value for name, value in document.items() if name != "sha256"}
        whole = fits(document, SHAPE) and document["sha256"] == canonical_digest(rest)
    except UserError:
        raise
    except (OSError, ValueError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise UserError(f"{path} is damaged; remove it, then score it again")
    return dict(document)


def _estimate(value: Any) -> bool:
    """Whether a value is a proportion within its interval."""
    share = number(0, 1)
    return (
        fits(value, {"value": share, "low": share, "high": share})
        and value["low"] - CLOSE <= value["value"] <= value["high"] + CLOSE
    )


def _counts(value: Any) -> bool:
    """Whether a value has numbers of images by class name."""
    return isinstance(value, dict) and all(count(1)(images) for images in value.values())


CALIBRATION: Shape = {"ece": _estimate, "log_loss": number(0, sys.float_info.max)}
CHANGE: dict[str, Shape] = {"value": number(-1, 1), "low": number(-1, 1), "high": number(-1, 1)}
SHAPE: Shape = {
    "format": count(FORMAT),
    "run": text,
    "predictions": sha256,
    "dataset": {"name": text, "source": text, "digest": text, "limit": none_or(count(1))},
    "scored": text,
    "warnings": [text],
    "test_digest": sha256,
    "unknown_classes": _counts,
    "absent_classes": [text],
    "images": count(1),
    "accuracy": _estimate,
    "balanced_accuracy": _estimate,
    "macro_f1": _estimate,
    "per_class": [
        {
            "class": text,
            "recall": none_or(number(0, 1)),
            "precision": none_or(number(0, 1)),
            "support": count(0),
        }
    ],
    "calibration": CALIBRATION,
    "own_test": {"images": count(1), "accuracy": _estimate, "calibration": CALIBRATION},
    "difference": either(
        {**CHANGE, "method": lambda value: value == "independent"},
        {
            **CHANGE,
            "method": lambda value: value == "paired",
            "p": number(0, 1),
            "here_only": count(0),
            "there_only": count(0),
        },
    ),
    "command": text,
    "looks": count(1),
    "sha256": sha256,
}


def _is_of(document: dict[str, Any], run: Run) -> bool:
    """Whether an evaluation is consistent with the run and in itself."""
    rows, own, change = document["per_class"], document["own_test"], document["difference"]
    supports = np.array([row["support"] for row in rows])
    if [row["class"] for row in rows] != list(run.class_names) or supports.sum() != document["images"]:
        return False
    absent = [row["class"] for row in rows if not row["support"]]
    if absent != document["absent_classes"] or any(
        (row["recall"] is None) != (row["support"] == 0) for row in rows
    ):
        return False
    if document["unknown_classes"].keys() & set(run.class_names):
        return False
    right = sum(row["support"] * row["recall"] for row in rows if row["support"])
    there = int(np.isin(run.test_labels, np.flatnonzero(supports)).sum())
    paired = change["method"] == "paired"
    difference = document["accuracy"]["value"] - own["accuracy"]["value"]
    return bool(
        abs(right / document["images"] - document["accuracy"]["value"]) < CLOSE
        and abs(difference - change["value"]) < CLOSE
        and change["low"] <= change["high"]
        and own["images"] == (document["images"] if paired else there)
        and (not paired or change["here_only"] + change["there_only"] <= document["images"])
    )
