"""Prediction with saved runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from features.errors import UserError
from models.runs.collection import is_outdated, mean
from models.runs.run import Run
from models.runs.saving import load
from models.temperature import scaled

T = TypeVar("T")


class Predictor:
    """A run with its fitted head, or the heads that vote, in memory.

    Parameters
    ----------
    run : the run; ``root`` is the folder of all runs.
    trust : read heads that were kept with joblib, which runs code that is in them.
    memory : what a ``knn`` whose training images stay in their cache may take, in bytes or as in ``4GB``;
        None: what is free, less a tenth.

    Attributes
    ----------
    layers : the layers it needs.
    rows_per_pass : the images for which such training images are read once; None where there are none.

    Raises
    ------
    UserError
        The run's folder is gone or damaged, or a member of a vote is gone or was trained again.
    """

    def __init__(
        self, run: Run, root: str | Path, trust: bool = False, memory: int | str | None = None
    ) -> None:
        root = Path(root)
        self._parts = (
            members_of(run, root, trust, memory)
            if run.members
            else [(load(root / run.folder, with_head=True, trust=trust, memory=memory), 1.0)]
        )
        passes = [part.estimator.rows_per_pass() for part, _ in self._parts]
        self.rows_per_pass = min((rows for rows in passes if rows is not None), default=None)
        self._temperature = run.temperature if run.members else 1.0
        self.layers = tuple(dict.fromkeys(layer for part, _ in self._parts for layer in part.layers))

    def predict_proba(self, vectors: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float64]:
        """Calibrated probabilities of embeddings.

        Parameters
        ----------
        vectors : for each of ``layers`` (n, d) float32, as :meth:`features.Extractor.embed` gives them.

        Returns
        -------
        ndarray of shape (n, k), float64
            Columns as the run's ``class_names``; each row sums to 1.

        Raises
        ------
        UserError
            A layer is missing.

        Examples
        --------
        >>> from features import VGG16, open_dataset
        >>> from models import Predictor, load_all
        >>> run = load_all("out/runs")[0]
        >>> predictor = Predictor(run, "out/runs")
        >>> images = open_dataset("digits").images("test", 0, 4, 32)
        >>> predictor.predict_proba(VGG16(predictor.layers).embed(images)).shape
        (4, 10)
        """
        missing = [layer for layer in self.layers if layer not in vectors]
        if missing:
            raise UserError(f"vectors: expected {', '.join(self.layers)}; {missing[0]} is missing")
        parts = []
        for run, weight in self._parts:
            X = np.concatenate([vectors[layer] for layer in run.layers], axis=1)
            proba = np.asarray(run.estimator.predict_proba(X), np.float64)  # in float32 the smallest are 0
            parts.append((scaled(proba, run.temperature), weight))
        return scaled(mean(parts), self._temperature) if self._temperature != 1.0 else mean(parts)

    def predict_each(
        self, batches: Iterable[tuple[T, Mapping[str, NDArray[np.float32]]]]
    ) -> Iterator[tuple[T, NDArray[np.float64]]]:
        """:meth:`predict_proba` of one batch after another, in as few passes over training images as fit.

        Without such passes each batch is predicted as it comes; else they wait until ``rows_per_pass`` images
        are there, or all.

        Parameters
        ----------
        batches : pairs of anything, which is handed on, and vectors as :meth:`predict_proba` takes them.

        Returns
        -------
        iterator of pairs
            What came with each batch, in order, and its probabilities, ndarray of shape (n, k), float64.

        Raises
        ------
        UserError
            As :meth:`predict_proba`.

        Examples
        --------
        >>> from features import VGG16, open_dataset
        >>> from models import Predictor, load_all
        >>> predictor = Predictor(load_all("out/runs")[0], "out/runs")
        >>> network, images = VGG16(predictor.layers), open_dataset("digits").images
        >>> batches = ((start, network.embed(images("test", start, start + 2, 32))) for start in (0, 2))
        >>> [(start, proba.shape) for start, proba in predictor.predict_each(batches)]
        [(0, (2, 10)), (2, (2, 10))]
        """
        most = self.rows_per_pass or 1
        waiting: list[tuple[T, Mapping[str, NDArray[np.float32]]]] = []
        rows = 0
        for given, vectors in batches:
            count = len(next(iter(vectors.values())))
            if waiting and rows + count > most:
                yield from self._predicted(waiting)
                waiting, rows = [], 0
            waiting.append((given, vectors))
            rows += count
            if rows >= most:
                yield from self._predicted(waiting)
                waiting, rows = [], 0
        if waiting:
            yield from self._predicted(waiting)

    def _predicted(
        self, batches: Sequence[tuple[T, Mapping[str, NDArray[np.float32]]]]
    ) -> Iterator[tuple[T, NDArray[np.float64]]]:
        """Batches that are predicted together."""
        first = batches[0][1]
        together = {layer: np.concatenate([vectors[layer] for _, vectors in batches]) for layer in first}
        proba = self.predict_proba(together)
        ends = np.cumsum([len(next(iter(vectors.values()))) for _, vectors in batches])
        for (given, _), part in zip(batches, np.split(proba, ends[:-1]), strict=True):
            yield given, part


def members_of(
    run: Run, root: Path, trust: bool = False, memory: int | str | None = None
) -> list[tuple[Run, float]]:
    """The runs a vote consists of, with their fitted heads, and their weights.

    Raises
    ------
    UserError
        One of them has been removed, or trained again since.
    """
    missing = [folder for folder in run.members if not (root / folder).is_dir()]
    if missing:
        raise UserError(f"the vote {run.folder} needs {missing[0]}, which is gone; train that head again")
    parts = [
        (load(root / folder, with_head=True, trust=trust, memory=memory), weight)
        for folder, weight in run.members.items()
    ]
    if is_outdated(run, {part.folder: part for part, _ in parts}):
        raise UserError(f"the vote {run.folder}: a member was trained again; take the vote again")
    return parts
