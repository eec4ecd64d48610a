"""Select, then refit: the only code that sees the validation split."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.embeddings import Embeddings, canonical
from features.errors import UserError
from features.progress import say
from features.splits import stratified
from models.heads import head as known_head
from models.runs import Run

PATIENCE = 2  # values in a row below the best after which a sweep ends
VALIDATION = 0.1  # share of the train split that chooses; DINOv2's linear evaluation holds out as much


@dataclass
class Selection:
    """What the selection fit gives.

    Attributes
    ----------
    chosen : the parameters validation decided, as ``set_params`` takes them.
    sweep : one entry a candidate: ``value``, ``accuracy`` and ``loss`` on validation, ``seconds``.
    history : the training curves of the chosen fit, if the head keeps any.
    kept_epoch : the epoch of the curves whose weights were kept, from 1.
    val_proba : (m, k) probabilities of the validation rows under the chosen fit.
    estimator : the last fit, from which a warm start may go on.
    """

    chosen: dict[str, Any] = field(default_factory=dict)
    sweep: list[dict[str, float]] = field(default_factory=list)
    history: dict[str, list[float]] = field(default_factory=dict)
    kept_epoch: int | None = None
    val_proba: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    estimator: Any = None


def validation_rows(labels: NDArray[np.int64], dataset_digest: str) -> NDArray[np.int64]:
    """The rows of the train split that choose, ``(m,)`` ascending: a tenth, stratified.

    They depend on the dataset and a constant, not on a seed or an embedding, so that every head
    at every resolution is validated on the same images.
    """
    count = max(round(len(labels) * VALIDATION), len(np.unique(labels)))
    return stratified(labels, count, f"validation {dataset_digest}")


def train(embeddings: Embeddings, layers: Sequence[str], head: str, seed: int) -> Run:
    """Choose on the validation split, refit on all of train, predict the test split once.

    Raises
    ------
    UserError
        The head is unknown, refuses the embeddings, or the file is damaged.
    """
    entry = known_head(head)
    X = embeddings.matrix("train", layers)
    y = embeddings.labels("train")
    if not np.isfinite(X).all():
        raise UserError(f"{embeddings.path} holds NaN or infinite numbers; run: make verify")
    validation = validation_rows(y, embeddings.dataset["digest"])
    started = time.perf_counter()
    selection = _select(head, seed, X, y, validation)
    selected = time.perf_counter()
    say(f"{head}: refit on all {len(X):,} training images" + _list(selection.chosen))
    estimator = entry.make(seed).set_params(**selection.chosen)
    if getattr(estimator, "warm_start", False):
        estimator = selection.estimator.set_params(**selection.chosen)
    _fit(estimator, X, y)
    refitted = time.perf_counter()
    rows = len(X)
    del X
    test = embeddings.matrix("test", layers)
    predict_started = time.perf_counter()
    test_proba = np.asarray(estimator.predict_proba(test), dtype=np.float64)
    predicted = time.perf_counter()
    return Run(
        head=head,
        seed=seed,
        layers=tuple(layers),
        chosen=selection.chosen,
        grid={name: list(values) for name, values in entry.grid.items()},
        sweep=selection.sweep,
        history=selection.history,
        kept_epoch=selection.kept_epoch,
        seconds={
            "select": selected - started,
            "refit": refitted - selected,
            "predict": predicted - predict_started,
        },
        train_rows=rows,
        width=test.shape[1],
        dataset=embeddings.dataset,
        class_names=embeddings.class_names,
        spec=embeddings.spec,
        fingerprint=embeddings.fingerprint,
        test_digest=_test_digest(embeddings),
        val_rows=validation,
        val_labels=y[validation],
        val_proba=selection.val_proba,
        test_labels=embeddings.labels("test"),
        test_proba=test_proba,
        estimator=estimator,
    )


def _select(
    head: str, seed: int, X: NDArray[np.float32], y: NDArray[np.int64], validation: NDArray[np.int64]
) -> Selection:
    """Fit every candidate on train minus validation and keep the best on validation.

    The best has the highest accuracy; of equals, the more regularised.
    """
    fit = np.setdiff1d(np.arange(len(y)), validation)
    X_fit, y_fit, X_val, y_val = X[fit], y[fit], X[validation], y[validation]
    entry, best = known_head(head), Selection()
    best.estimator = estimator = entry.make(seed)
    parameter, values = next(iter(entry.grid.items()), (None, (None,)))
    for value in values:
        if parameter is not None:
            estimator.set_params(**{parameter: value})
        started = time.perf_counter()
        _fit(estimator, X_fit, y_fit, (X_val, y_val), head)
        seconds = time.perf_counter() - started
        proba = np.asarray(estimator.predict_proba(X_val), dtype=np.float64)
        accuracy = float((proba.argmax(axis=1) == y_val).mean())
        loss = float(-np.log(np.clip(proba[np.arange(len(y_val)), y_val], 1e-12, 1)).mean())
        if not best.sweep or accuracy > max(tried["accuracy"] for tried in best.sweep):
            best.val_proba = proba
            best.chosen = {} if parameter is None else {parameter: value}
            best.history = getattr(estimator, "history_", {})
            best.kept_epoch = getattr(estimator, "best_epoch_", None)
            if getattr(estimator, "patience", None) is not None:
                best.chosen["stop_epoch"] = best.kept_epoch
        candidate = {"accuracy": accuracy, "loss": loss, "seconds": seconds}
        best.sweep.append(candidate if value is None else {"value": value, **candidate})
        named = _list({} if parameter is None else {parameter: value})
        say(f"{head}{named}: validation accuracy {accuracy:.4f} ({seconds:.1f} s)")
        top = max(tried["accuracy"] for tried in best.sweep)
        if all(tried["accuracy"] < top for tried in best.sweep[-PATIENCE:]) and len(best.sweep) > PATIENCE:
            break  # past the top; the least regularised fits cost most and would not be chosen
    return best


def _fit(
    estimator: Any,
    X: NDArray[np.float32],
    y: NDArray[np.int64],
    validation: tuple[NDArray[np.float32], NDArray[np.int64]] | None = None,
    head: str = "",
) -> None:
    """Fit, giving the validation split to the heads that watch it; one line for what they refuse."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils.validation import has_fit_parameter

    watch: dict[str, Any] = {}
    if validation is not None and has_fit_parameter(estimator, "validation_data"):

        def on_epoch(epoch: int, history: dict[str, list[float]]) -> None:
            say(
                f"{head}: epoch {epoch}, accuracy {history['accuracy'][-1]:.4f}, "
                f"validation {history['val_accuracy'][-1]:.4f}"
            )

        watch = {"validation_data": validation, "on_epoch": on_epoch}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        estimator.fit(X, y, **watch)
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            say("note: the solver stopped at its iteration limit before it had converged fully")
            break


def _test_digest(embeddings: Embeddings) -> str:
    about = {name: embeddings.dataset[name] for name in ("digest", "limit")}
    rows = [about, embeddings.class_names, embeddings.ids("test"), embeddings.labels("test").tolist()]
    return hashlib.sha256(canonical(rows).encode()).hexdigest()


def _list(parameters: dict[str, Any]) -> str:
    short = {name.rpartition("__")[2]: value for name, value in parameters.items()}
    return "".join(f", {name}={value}" for name, value in short.items())
