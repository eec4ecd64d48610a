"""Soft voting: a run that averages the probabilities of saved runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.cache.embeddings import Embeddings
from features.errors import UserError
from features.progress import say
from models.runs.changes import remove
from models.runs.collection import mean
from models.runs.run import Run
from models.runs.saving import load
from models.temperature import FLOOR, temperature_of

VOTE = "vote"
ROUNDS = 50  # draws of a run into the vote, with replacement


def vote(runs: Sequence[Run]) -> Run:
    """Combine runs on one embedding by soft voting, with weights chosen on validation.

    Ensemble selection (R. Caruana et al., Ensemble selection from libraries of models, 2004): starting with
    the best run, repeatedly add the run, with replacement, that minimises the log loss of the vote on
    validation, and keep the round with the lowest log loss. Members contribute their calibrated
    probabilities; stored predictions are averaged and nothing is fitted again.

    Raises
    ------
    UserError
        There are fewer than two runs, or they were not validated and tested on the same images.
    """
    if len(runs) < 2:
        raise UserError(f"a vote needs at least two runs of one embedding, got {len(runs)}; train more")
    first = runs[0]
    for run in runs[1:]:
        if run.test_digest != first.test_digest or not np.array_equal(run.val_rows, first.val_rows):
            raise UserError(f"{run.folder} was not validated and tested on the same images as {first.folder}")
    started = time.perf_counter()
    seats = _seats([run.val_scaled for run in runs], first.val_labels)
    total = sum(seats.values())
    members = {runs[place].folder: count / total for place, count in sorted(seats.items())}
    by_folder = {run.folder: run for run in runs}
    parts = [(by_folder[folder], weight) for folder, weight in members.items()]
    for folder, weight in sorted(members.items(), key=lambda member: -member[1]):
        say(f"{VOTE}: {weight:5.1%}  {folder}")
    val_proba = mean([(run.val_scaled, weight) for run, weight in parts])
    layers = tuple(sorted({layer for run, _ in parts for layer in run.layers}))
    selected = time.perf_counter() - started
    return Run(
        head=VOTE,
        seed=0,
        layers=layers,
        width=max(run.width for run, _ in parts),
        dataset=first.dataset,
        class_names=first.class_names,
        spec=first.spec,
        fingerprint=first.fingerprint,
        test_digest=first.test_digest,
        chosen={"members": len(members)},
        grid={},
        sweep=[],
        history={},
        kept_epoch=None,
        seconds={
            "select": selected + sum(run.seconds["select"] for run, _ in parts),
            "refit": sum(run.seconds["refit"] for run, _ in parts),
            "predict": sum(run.seconds["predict"] for run, _ in parts),
        },
        train_rows=max(run.train_rows for run, _ in parts),
        val_rows=first.val_rows,
        val_labels=first.val_labels,
        val_proba=val_proba,
        test_labels=first.test_labels,
        test_proba=mean([(run.test_scaled, weight) for run, weight in parts]),
        floors=first.floors,
        temperature=temperature_of(val_proba, first.val_labels),
        members=members,
    )


def eligible(runs: Sequence[Run], embeddings: Embeddings, layers: Sequence[str] | None = None) -> list[Run]:
    """The runs that may vote on these embeddings: no votes, and better than the prior on validation.

    Parameters
    ----------
    layers : only runs on exactly these layers; None: on any.
    """
    return [
        run
        for run in runs
        if run.fingerprint == embeddings.fingerprint
        and not run.members
        and (layers is None or set(run.layers) == set(layers))
        and run.val_accuracy > run.floors.get("prior", 0.0)
    ]


def drop_others(root: Path, vote: Run) -> None:
    """Remove earlier votes on the same embeddings."""
    for folder in root.glob(f"[!.]*-{VOTE}-*"):
        try:
            other = load(folder)
        except UserError:
            continue
        if other.members and other.fingerprint == vote.fingerprint and folder.name != vote.folder:
            remove(folder)
            say(f"{VOTE}: replaces {folder.name}")


def _seats(probas: list[NDArray[np.float64]], labels: NDArray[np.int64]) -> Counter[int]:
    """The number of draws of each member, by its position."""
    truth = np.array([proba[np.arange(len(labels)), labels] for proba in probas])  # (runs, m)

    def loss(likelihood: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(-np.log(np.clip(likelihood, FLOOR, None)).mean(axis=-1))

    drawn: list[int] = []
    losses: list[float] = []
    together = np.zeros(truth.shape[1])
    for count in range(1, ROUNDS + 1):
        found = loss((together + truth) / count)
        drawn.append(int(found.argmin()))
        losses.append(float(found.min()))
        together += truth[drawn[-1]]
    return Counter(drawn[: int(np.argmin(losses)) + 1])  # the round with the lowest loss
