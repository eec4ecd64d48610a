"""Validation of a run's files: types, ranges and lengths."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import PurePath
from typing import Any

from numpy.typing import NDArray

from features.shapes import (
    anything,
    count,
    flag,
    having,
    mapping,
    misfit,
    none_or,
    number,
    some,
    text,
)
from models.runs.run import Run
from models.temperature import BOUNDS

ARRAYS = ("val_rows", "val_labels", "val_proba", "test_labels", "test_proba")
SHARE = number(0, 1)
FINITE = number(-sys.float_info.max, sys.float_info.max)
SECONDS = number(0, sys.float_info.max)
CURVE = some(FINITE)


def _file_name(value: Any) -> bool:
    """Whether a value is a plain file name and not a path."""
    return isinstance(value, str) and PurePath(value).name == value


SHAPE: dict[str, Any] = {  # of run.json, without format, digests and learned attributes
    "head": text,
    "seed": count(0),
    "layers": some(text),
    "width": count(1),
    "dataset": having(
        {"name": text, "source": text, "digest": text, "note": text, "limit": none_or(count(1))}
    ),
    "class_names": some(text),
    "spec": having(
        {
            "backbone": text,
            "weights": text,
            "weights_sha256": text,
            "image_size": count(1),
            "preprocess": text,
            "precision": text,
            "mirror": flag,
        }
    ),
    "fingerprint": text,
    "test_digest": text,
    "chosen": mapping(anything),
    "grid": mapping([anything]),
    "sweep": [having({"accuracy": SHARE, "loss": FINITE})],
    "history": lambda value: (
        value == {}
        or misfit(value, {"loss": CURVE, "accuracy": CURVE, "val_loss": CURVE, "val_accuracy": CURVE}) is None
    ),
    "kept_epoch": none_or(count(1)),
    "seconds": {"select": SECONDS, "refit": SECONDS, "predict": SECONDS},
    "train_rows": count(1),
    "asked": mapping(anything),
    "parameters": mapping(anything),
    "floors": mapping(SHARE),
    "warnings": [text],
    "temperature": number(*BOUNDS),
    "train_accuracy": SHARE,
    "members": lambda value: mapping(SHARE)(value) and all(map(_file_name, value)),
    "versions": mapping(text),
    "processor": text,
    "command": text,
    "look": text,
}
REQUIRED = {  # fields of runs of every version
    field.name for field in fields(Run) if field.default is MISSING and field.default_factory is MISSING
}


def check(said: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Validate the content of a run's files.

    Parameters
    ----------
    said : the fields of ``run.json``.
    arrays : the arrays of ``predictions.npz``.

    Raises
    ------
    ValueError
        A field or array is invalid; the message names the first one.
    """
    shape = {name: part for name, part in SHAPE.items() if name in said or name in REQUIRED}
    if (place := misfit(dict(said), shape)) is not None:
        raise ValueError(f"{place} has an invalid type or value")
    for problem, holds in _contradictions(said):
        if holds:
            raise ValueError(problem)
    if set(arrays) != set(ARRAYS):
        raise ValueError(f"expected the arrays {', '.join(ARRAYS)}")
    classes = len(said["class_names"])
    for split in ("val", "test"):
        labels, proba = arrays[f"{split}_labels"], arrays[f"{split}_proba"]
        if labels.dtype.kind != "i" or labels.ndim != 1 or not labels.size:
            raise ValueError(f"{split}_labels is not a list of class numbers")
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(f"{split}_labels has a number without a class")
        if proba.dtype.kind != "f" or proba.shape != (len(labels), classes):
            raise ValueError(f"{split}_proba does not have a row per label and a column per class")
        if not ((proba >= 0) & (proba <= 1 + 1e-6)).all():
            raise ValueError(f"{split}_proba has values that are not probabilities")
    rows = arrays["val_rows"]
    if rows.dtype.kind != "i" or rows.shape != arrays["val_labels"].shape or rows.min() < 0:
        raise ValueError("val_rows does not have a row number per label")


def _contradictions(said: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Contradictions between fields, each with whether it occurs."""
    history, sweep = said["history"], said["sweep"]
    epochs = {len(values) for values in history.values()} or {0}
    names = {frozenset(row) for row in sweep}
    measured = {"accuracy", "loss", "train_accuracy", "seconds"}
    numbers = [row[name] for row in sweep for name in ("train_accuracy", "seconds") if name in row]
    return [
        ("history has curves of different lengths", len(epochs) > 1),
        ("kept_epoch is not in history", bool(history) and (said["kept_epoch"] or 1) > min(epochs)),
        ("sweep has rows of several kinds", len(names) > 1),
        ("sweep has values that are not numbers", any(not SECONDS(value) for value in numbers)),
        ("sweep has rows without a value", len(sweep) > 1 and any(row <= measured for row in names)),
        (
            "chosen is empty, but values were tried",
            any("value" in row for row in names) and not said["chosen"],
        ),
        ("it has neither a sweep nor members", not (sweep or said.get("members"))),
    ]
