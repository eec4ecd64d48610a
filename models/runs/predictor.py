"""Prediction with saved runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.errors import UserError
from models.runs.collection import is_outdated, mean
from models.runs.run import Run
from models.runs.saving import load
from models.temperature import scaled


class Predictor:
    """A run with its fitted head, or the heads that vote, in memory.

    Parameters
    ----------
    run : the run; ``root`` is the folder of all runs.
    trust : read heads that were kept with joblib, which runs code that is in them.

    Attributes
    ----------
    layers : the layers it needs.

    Raises
    ------
    UserError
        The run's folder is gone or damaged, or a member of a vote is gone or was trained again.
    """

    def __init__(self, run: Run, root: str | Path, trust: bool = False) -> None:
        root = Path(root)
        self._parts = (
            members_of(run, root, trust)
            if run.members
            else [(load(root / run.folder, with_head=True, trust=trust), 1.0)]
        )
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


def members_of(run: Run, root: Path, trust: bool = False) -> list[tuple[Run, float]]:
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
        (load(root / folder, with_head=True, trust=trust), weight) for folder, weight in run.members.items()
    ]
    if is_outdated(run, {part.folder: part for part, _ in parts}):
        raise UserError(f"the vote {run.folder}: a member was trained again; take the vote again")
    return parts
