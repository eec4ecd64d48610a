"""Serialisation of Headroom's heads: constructor parameters as JSON, learned attributes as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LATER = ("class_weight", None)  # added later: omitted if default, so that earlier runs keep their names
MACHINE = ("n_jobs", "verbose")  # parameters of scikit-learn that do not change results
Arrays = dict[str, NDArray[Any]]


def parameters(estimator: Any) -> dict[str, Any]:
    """The estimator's parameters as JSON values, without those that do not change results."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in sorted(estimator.get_params().items())
        if isinstance(value, None | bool | int | float | str | tuple)
        and name not in MACHINE
        and (name, value) != LATER
    }


def to_data(estimator: Any) -> tuple[dict[str, Any], Arrays]:
    """Serialise the learned attributes of a head, which end in ``_`` as in scikit-learn.

    Returns
    -------
    tuple
        JSON values by name, in which ``{"array": name}`` refers to an array; and the arrays by name.

    Raises
    ------
    TypeError
        An attribute is neither numeric nor text.
    """
    arrays: Arrays = {}

    def leaf(value: Any, name: str) -> Any:
        if isinstance(value, np.ndarray) and value.dtype != object:
            arrays[name] = value
            return {"array": name}
        if isinstance(value, list | tuple):
            return [leaf(item, f"{name}.{place}") for place, item in enumerate(value)]
        if isinstance(value, dict):
            return {"dict": {key: leaf(item, f"{name}.{key}") for key, item in value.items()}}
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, None | bool | int | float | str):
            return value
        raise TypeError(f"{name} is a {type(value).__name__}, which cannot be stored as data")

    return {key: leaf(value, key) for key, value in vars(estimator).items() if _is_learned(key)}, arrays


def from_data(estimator: Any, learned: dict[str, Any], arrays: Arrays) -> Any:
    """Restore attributes from :func:`to_data` in an unfitted ``estimator``, and return it."""

    def value(leaf: Any) -> Any:
        if isinstance(leaf, dict):
            if "array" in leaf:
                return arrays[leaf["array"]]
            return {key: value(item) for key, item in leaf["dict"].items()}
        return [value(item) for item in leaf] if isinstance(leaf, list) else leaf

    for key, leaf in learned.items():
        if not _is_learned(key):
            raise ValueError(f"{key} is not a learned attribute")
        setattr(estimator, key, value(leaf))
    return estimator


def _is_learned(name: str) -> bool:
    return name.endswith("_") and not name.startswith("_")
