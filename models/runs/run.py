"""What was trained on what, its predictions and its seconds."""

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
    head, seed : its name (``models.heads.registry.head``), and what seeded it.
    layers : the layers it read, in column order; ``width`` numbers together.
    dataset, class_names, spec, fingerprint : of the embeddings.
    test_digest : SHA-256 over dataset, limit, class names, test ids and labels: equal for runs that
        answered the same questions.
    asked, parameters : the whole configuration before and after ``chosen``, what validation decided.
    grid, sweep, history : what was tried, how each value did, and the curves by epoch.
    kept_epoch : the epoch of ``history`` whose weights predicted validation, from 1.
    floors : validation accuracy of the heads that any other should beat, by name.
    warnings : what a reader of the result should know: a sentence each.
    train_accuracy : of the final fit on (a sample of) its own images.
    temperature : fitted on ``val_proba``; :attr:`test_scaled` are the calibrated probabilities.
    members : of a vote: the folder of each run that votes, and its weight.
    seconds : ``select``, ``refit`` and ``predict`` (all of test).
    train_rows : images of the final fit.
    val_rows, val_labels, val_proba : (m,), (m,), (m, k); from the selection fit.
    test_labels, test_proba : (n,), (n, k); from the final fit.
    versions, processor, command : where the numbers came from.
    look : the digest of its line in ``looks.jsonl``; empty in runs of earlier versions.
    estimator : the final fit itself; None where it was not asked for.
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
        """Share of the validation images that the selection fit had right."""
        return float((self.val_proba.argmax(axis=1) == self.val_labels).mean())

    @property
    def id(self) -> str:
        """Twelve hex digits over all that was decided before training: a repeat has the same."""
        return id_of({part: getattr(self, part) for part in PARTS})

    @property
    def folder(self) -> str:
        """The name of the folder it is kept in."""
        return f"{slug(self.dataset['name'])}-{slug(self.head)}-seed{self.seed}-{self.id}"

    def is_set_as(self, settings: Mapping[str, Any], grid: Mapping[str, Sequence[Any]]) -> bool:
        """Whether this is the head but for these settings and grid, whatever the seed and the images."""
        entry = known(self.head)
        if entry is None:  # a vote, or a class of another package, whose code is not run for this
            return False
        try:
            entry = with_grid(self.head, with_settings(self.head, entry, settings), grid, settings)
            as_set = entry.configuration(self.seed, self.train_rows)
        except UserError:  # it has no such parameter
            return False
        return as_set == {"asked": self.asked, "grid": self.grid}
