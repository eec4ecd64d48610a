"""A run: one trained head with its predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.cache.embeddings import slug
from features.environment import processor, versions
from features.errors import UserError
from models.heads import saved
from models.heads.registry import known, with_grid, with_settings
from models.runs.identity import PARTS, id_of
from models.temperature import scaled


@dataclass
class Run:
    """One head, trained once.

    Attributes
    ----------
    head, seed : name of the head (see ``models.heads.registry.head``), and its random state.
    layers : the layers, in column order.
    width : number of columns.
    dataset, class_names, spec, fingerprint : of the embeddings.
    test_digest : SHA-256 over dataset, limit, class names, test ids and labels; equal for runs that are
        comparable on the test split.
    asked, parameters : all parameters before and after model selection.
    chosen : the parameters chosen on validation.
    grid, sweep, history : the values tried, the result for each, and the training curves by epoch.
    kept_epoch : the epoch of ``history`` whose weights predicted validation, from 1.
    floors : validation accuracy of the trivial baselines, by name.
    warnings : remarks for the reader of the result, a sentence each.
    train_accuracy : of the final fit on a sample of its training images.
    temperature : fitted on ``val_proba``; :attr:`test_scaled` has the calibrated probabilities.
    members : for a vote, the folder and weight of each member.
    seconds : ``select``, ``refit`` and ``predict`` (the test split).
    train_rows : number of images of the final fit.
    val_rows, val_labels, val_proba : (m,), (m,), (m, k); predicted by the selection fit.
    test_labels, test_proba : (n,), (n, k); predicted by the final fit.
    versions, processor, command : provenance.
    look : digest of the run's line in ``looks.jsonl``; empty in runs of earlier versions.
    estimator : the fitted head, or None if it was not loaded.
    """

    head: str
    seed: int
    layers: tuple[str, ...]
    width: int
    dataset: dict[str, Any]
    class_names: tuple[str, ...]
    spec: dict[str, Any]
    fingerprint: str
    test_digest: str
    chosen: dict[str, Any]
    grid: dict[str, list[Any]]
    sweep: list[dict[str, Any]]
    history: dict[str, list[float]]
    kept_epoch: int | None
    seconds: dict[str, float]
    train_rows: int
    val_rows: NDArray[np.int64]
    val_labels: NDArray[np.int64]
    val_proba: NDArray[np.float64]
    test_labels: NDArray[np.int64]
    test_proba: NDArray[np.float64]
    asked: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    floors: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    temperature: float = 1.0
    train_accuracy: float = 0.0
    members: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=lambda: versions())
    processor: str = field(default_factory=processor)
    command: str = ""
    look: str = ""
    estimator: Any = None

    def __post_init__(self) -> None:
        if self.estimator is not None:
            self.parameters = saved.parameters(self.estimator)

    @property
    def val_scaled(self) -> NDArray[np.float64]:
        """``val_proba`` after temperature scaling."""
        return scaled(self.val_proba, self.temperature)

    @property
    def test_scaled(self) -> NDArray[np.float64]:
        """``test_proba`` after temperature scaling."""
        return scaled(self.test_proba, self.temperature)

    @property
    def val_accuracy(self) -> float:
        """Accuracy of the selection fit on the validation images."""
        return float((self.val_proba.argmax(axis=1) == self.val_labels).mean())

    @property
    def id(self) -> str:
        """Twelve hex digits of a digest of the run's identity; a repeated run has the same."""
        return id_of({part: getattr(self, part) for part in PARTS})

    @property
    def folder(self) -> str:
        """The name of the run's folder."""
        return f"{slug(self.dataset['name'])}-{slug(self.head)}-seed{self.seed}-{self.id}"

    def is_set_as(self, settings: Mapping[str, Any], grid: Mapping[str, Sequence[Any]]) -> bool:
        """Whether the run has these settings and grid, and defaults otherwise."""
        entry = known(self.head)
        if entry is None:  # a vote, or a class of another package, whose code must not be run
            return False
        try:
            entry = with_grid(self.head, with_settings(self.head, entry, settings), grid, settings)
            as_set = entry.configuration(self.seed, self.train_rows)
        except UserError:  # no such parameter
            return False
        return as_set == {"asked": self.asked, "grid": self.grid}
