"""Model selection: sweep, choose on the validation split, refit.

No other module chooses parameters; ``vote.py`` chooses the weights of a vote on the same images.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.budget import gigabytes, require
from features.progress import Occasionally, say
from features.words import counted
from models.heads.base import BaseHead
from models.heads.blocks import Blocks, evenly, sample
from models.heads.parameters import on_a_scale, shown
from models.heads.refusal import refusing
from models.heads.registry import Head
from models.heads.registry import head as known_head
from models.runs.identity import identity, test_digest
from models.runs.run import Run
from models.temperature import FLOOR, temperature_of
from models.trainsplit import TrainSplit

PATIENCE = 2  # consecutive values below the best after which a sweep ends
COLLAPSE = 0.1  # training accuracy of the refit this far below validation accuracy is reported
FLOORS = ("prior", "centroid")  # trivial baselines, which take almost no time


@dataclass
class Selection:
    """The result of the selection fit.

    Attributes
    ----------
    chosen : the parameters chosen on validation, for ``set_params``.
    sweep : one entry per candidate: its ``value`` (for several parameters: each by name), ``accuracy`` and
        ``loss`` on validation, ``train_accuracy`` on a sample of the images it was fitted on (not for
        nearest neighbours, which memorise them), and ``seconds``.
    history : the training curves of the chosen fit, if the head records any.
    kept_epoch : the epoch of the curves whose weights were kept, from 1.
    val_proba : (m, k) probabilities of the validation rows by the chosen fit.
    estimator : the last fit, for a warm start.
    notes : remarks for the reader of the result, a sentence each.
    """

    chosen: dict[str, Any] = field(default_factory=dict)
    sweep: list[dict[str, Any]] = field(default_factory=list)
    history: dict[str, list[float]] = field(default_factory=dict)
    kept_epoch: int | None = None
    val_proba: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    estimator: BaseHead | None = None
    notes: list[str] = field(default_factory=list)


@refusing()
def train(
    material: TrainSplit,
    head: str,
    seed: int,
    settings: Mapping[str, Any] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
) -> Run:
    """Choose parameters on the validation split, refit on the complete train split, predict the test split.

    Parameters
    ----------
    material : the train split.
    head : the name of the head, see :func:`models.heads.registry.head`.
    seed : random state of the head; 0 is used for heads that do not depend on it.
    settings : constructor parameters that differ from the head's defaults; they are not swept.
    grid : one more parameter to sweep, with its values.

    Returns
    -------
    Run
        With its fitted head, not saved.

    Raises
    ------
    UserError
        The head is unknown, rejects the settings or the embeddings, or needs more memory than available; or
        the test split contains NaN or infinity.

    Examples
    --------
    >>> from features import VGG16, extract, open_dataset
    >>> from models import TrainSplit, train
    >>> embeddings = extract(open_dataset("digits"), VGG16(layers="block5"), "out/embeddings")
    >>> run = train(TrainSplit(embeddings, ["block5"]), "ridge", seed=0, settings={"alpha": 10})
    >>> run.chosen, run.test_proba.shape
    ({'alpha': 10.0}, (355, 10))
    """
    entry, embeddings = known_head(head, settings, grid), material.embeddings
    check_memory(head, entry.make_for(seed, len(material.X)), material)
    started, passes = time.perf_counter(), material.passes
    with _convergence() as stopped:
        selection = _select(head, entry, seed, material)
    selected = time.perf_counter()
    say(f"{head}: refit on all {len(material.X):,} training images" + _list(selection.chosen))
    estimator, selection.estimator = selection.estimator, None
    if estimator is None or not estimator.warm_start:
        estimator = entry.make_for(seed, len(material.X))  # also frees the memory of the selection fit
    with _convergence() as stopped_again:
        estimator.set_params(**selection.chosen).fit(material.X, material.y)
    refitted = time.perf_counter()
    sample, floors = evenly(len(material.X)), _floors(material)
    train_accuracy = _accuracy(estimator.predict_proba_of_own(material.X, sample), material.y[sample])
    for warned, fit in ((stopped, "of a value that was tried"), (stopped_again, "of the final fit")):
        if warned:
            selection.notes.append(f"the solver {fit} stopped before it had converged: {warned[-1].message}")
    selection.notes += [f"the final fit {remark}" for remark in estimator.remarks()]
    if isinstance(material.X, Blocks):
        selection.notes.append(
            f"fitted out of core: the training images take {gigabytes(material.bytes)}, more than the "
            f"{gigabytes(material.memory)} of memory available; their rows were read "
            f"{counted(material.passes - passes, 'time')} from the disk"
        )
    test = material.test()
    predict_started = time.perf_counter()
    test_proba = estimator.proba_of(test)
    predicted = time.perf_counter()
    return Run(
        **identity(embeddings, material.layers, head, seed, settings, grid),
        chosen=selection.chosen,
        sweep=selection.sweep,
        history=selection.history,
        kept_epoch=selection.kept_epoch,
        floors=floors,
        warnings=_warnings(head, entry, selection, material, train_accuracy),
        train_accuracy=train_accuracy,
        temperature=temperature_of(selection.val_proba, material.y_val),
        seconds={
            "select": selected - started,
            "refit": refitted - selected,
            "predict": predicted - predict_started,
        },
        train_rows=len(material.X),
        width=test.shape[1],
        dataset=embeddings.dataset,
        class_names=embeddings.class_names,
        spec=embeddings.spec,
        test_digest=test_digest(embeddings),
        val_rows=material.val_rows,
        val_labels=material.y_val,
        val_proba=selection.val_proba,
        test_labels=embeddings.test_labels(),
        test_proba=test_proba,
        estimator=estimator,
    )


def _select(head: str, entry: Head, seed: int, material: TrainSplit) -> Selection:
    """Fit every candidate on train without validation, and choose the best on validation.

    The best has the highest accuracy and, of these, the lowest log loss.
    """
    best = Selection()
    best.estimator = estimator = entry.make_for(seed, len(material.X))
    grid = {name: list(values) for name, values in entry.grid.items()}

    epochs = Occasionally()

    def on_epoch(epoch: int, history: dict[str, list[float]]) -> None:
        epochs.say(
            f"{head}: epoch {epoch}, accuracy {history['accuracy'][-1]:.4f}, "
            f"validation {history['val_accuracy'][-1]:.4f}"
        )

    watched = (material.X_val, material.y_val)
    tried = estimator.sweep(material.X_fit, material.y_fit, watched, grid, on_epoch)
    started = time.perf_counter()
    own = evenly(len(material.X_fit))
    for parameters, proba in tried:
        seconds = time.perf_counter() - started
        accuracy = _accuracy(proba, material.y_val)
        fitted: dict[str, float] = {}
        if not estimator.remembers:
            fitted["train_accuracy"] = _accuracy(
                estimator.proba_of(sample(material.X_fit)), material.y_fit[own]
            )
        rows = np.arange(len(proba))
        loss = float(-np.log(np.clip(proba[rows, material.y_val], FLOOR, 1)).mean())
        if not best.sweep or (accuracy, -loss) > max((row["accuracy"], -row["loss"]) for row in best.sweep):
            best.val_proba = np.asarray(proba, dtype=np.float64)
            best.chosen = {**parameters, **estimator.decided()}
            best.history, best.kept_epoch = estimator.curves()
        value = {"value": next(iter(parameters.values()))} if len(parameters) == 1 else parameters
        best.sweep.append({**value, "accuracy": accuracy, "loss": loss, **fitted, "seconds": seconds})
        say(f"{head}{_list(parameters)}: validation accuracy {accuracy:.4f} ({seconds:.1f} s)")
        accuracies = [row["accuracy"] for row in best.sweep]
        on_one_scale = len(grid) == 1 and on_a_scale(next(iter(grid.values())))
        if entry.ordered and on_one_scale and max(accuracies[-PATIENCE:]) < max(accuracies):
            break  # the optimum is passed, and the least regularised fits are the slowest
        started = time.perf_counter()
    return best


@contextmanager
def _convergence() -> Iterator[list[warnings.WarningMessage]]:
    """Collect convergence warnings in a list, which is filled at the end; other warnings are passed on."""
    from sklearn.exceptions import ConvergenceWarning

    found: list[warnings.WarningMessage] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        yield found
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            found.append(warning)
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def check_memory(head: str, estimator: BaseHead, material: TrainSplit) -> None:
    """Refuse a head that needs more memory than is available beside the train split or its blocks."""
    X, classes = material.X, len(material.embeddings.class_names)
    what, remedy = f"the head {head}", "fewer images (limit) or narrower layers would need less"
    if isinstance(X, Blocks):
        needed, reckoned = estimator.memory_in_blocks(*X.shape, classes)
        require(needed, reckoned, what, f"a larger memory= gives more; {remedy}", X.memory)
    else:
        rows, width = X.shape
        require(*estimator.memory(rows, width, classes), what, remedy)


def _floors(material: TrainSplit) -> dict[str, float]:
    """Validation accuracy of the trivial baselines, by name."""
    for name in FLOORS:
        if name not in material.floors:
            proba = known_head(name).make(0).fit(material.X_fit, material.y_fit).proba_of(material.X_val)
            material.floors[name] = _accuracy(proba, material.y_val)
    return dict(material.floors)


def _warnings(
    head: str, entry: Head, selection: Selection, material: TrainSplit, train_accuracy: float
) -> list[str]:
    """Remarks for the reader of the result, a sentence each; they are also printed."""
    found = list(selection.notes)
    for name, values in entry.grid.items():
        value = selection.chosen[name]
        if len(values) > 1 and on_a_scale([value]) and value in (values[0], values[-1]):
            end = "first" if value == values[0] else "last"
            found.append(
                f"the chosen {name} = {shown(value)} is the {end} of its grid "
                f"({shown(values[0])} to {shown(values[-1])}): a value beyond may be better"
            )
    accuracy = _accuracy(selection.val_proba, material.y_val)
    if train_accuracy < accuracy - COLLAPSE:
        found.append(
            f"the accuracy of the final fit is {train_accuracy:.4f} on its training images, that of the "
            f"selection fit {accuracy:.4f} on validation images: it has collapsed, maybe from too few images"
        )
    for name, floor in _floors(material).items():
        if head not in FLOORS and accuracy < floor:
            found.append(
                f"worse on validation than {name} ({accuracy:.4f} against {floor:.4f}), which is: "
                f"{known_head(name).about}"
            )
    for sentence in found:
        say(f"warning: {head}: {sentence}")
    return found


def _accuracy(proba: NDArray[Any], codes: NDArray[np.int64]) -> float:
    return float((proba.argmax(axis=1) == codes).mean())


def _list(parameters: dict[str, Any]) -> str:
    return "".join(f", {name}={value}" for name, value in parameters.items())
