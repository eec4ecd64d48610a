"""Diagnosis of over- and underfitting, with advice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from models.heads.parameters import on_a_scale
from models.runs.run import Run

GAP = 0.05  # of accuracy between training and validation that counts as overfitting
MARGIN = 0.02  # of accuracy by which another head must be better to call this one underfit
GAIN = 0.005  # of validation accuracy gained in the last fifth of the epochs that counts as underfitting
DOUBLING = 0.01  # of validation accuracy gained by doubling the images, above which more would help


def diagnosis(run: Run, reached: float, points: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Diagnose whether a head over- or underfits.

    Compares training and validation accuracy of the selection fit, at the kept epoch or with the chosen
    parameters. *Underfit*: training accuracy is less than a tenth of the way from chance to 1, or lower by
    ``MARGIN`` than the validation accuracy of another head on the same vectors. *Overfit*: training accuracy
    exceeds validation accuracy by more than ``GAP``. *Underfit* too: validation accuracy still rose by more
    than ``GAIN`` in the last fifth of the epochs. *Neither*: otherwise. Nearest neighbours memorise their
    training images, so only their validation accuracy is considered.

    Parameters
    ----------
    run : the run.
    reached : the best validation accuracy of any other head on the same vectors; 0 if none.
    points : the points of the learning curve; empty if there is none.

    Returns
    -------
    dict
        ``verdict`` and ``sentence``.
    """
    if run.head == "prior":
        return {"verdict": "floor", "sentence": "A trivial baseline: it does not use the images."}
    if run.members:
        return {"verdict": "vote", "sentence": f"A vote of {len(run.members)} runs: see their diagnoses."}
    training, validation, where = _fitted(run)
    if training is None:
        verdict, opening = "neither", "It keeps its training images and fits nothing"
        numbers = f"accuracy is {validation:.3f} on validation images"
        better = validation < reached - MARGIN
        advice = f"another head reaches {reached:.3f} with the same vectors" if better else ""
    else:
        verdict, advice = _judged(run, training, validation, reached, bool(points))
        opening = "Neither over- nor underfit" if verdict == "neither" else verdict.capitalize()
        numbers = f"{where} accuracy is {training:.3f} on training and {validation:.3f} on validation images"
    sentence = ". ".join(part for part in (opening, f"{numbers[0].upper()}{numbers[1:]}") if part)
    sentence += f"; {advice}." if advice else "."
    return {"verdict": verdict, "sentence": f"{sentence}{_more_images(run, points)}{_edge(run)}"}


def _fitted(run: Run) -> tuple[float | None, float, str]:
    """Training (None if not meaningful) and validation accuracy of the selection fit, and when."""
    if run.history:
        kept, epochs = (run.kept_epoch or 1) - 1, len(run.history["val_accuracy"])
        where = f"at the kept epoch ({kept + 1} of {epochs})"
        return run.history["accuracy"][kept], run.history["val_accuracy"][kept], where
    best = max(run.sweep, key=lambda row: (row["accuracy"], -row["loss"]))
    where = "with the chosen " + " and ".join(run.chosen) if run.chosen else "in the selection fit"
    return best.get("train_accuracy"), best["accuracy"], where


def _judged(run: Run, training: float, validation: float, reached: float, measured: bool) -> tuple[str, str]:
    """The verdict, and advice; ``measured``: whether a learning curve tells the effect of more images."""
    chance, epochs = 1 / len(run.class_names), bool(run.history)
    if training < chance + 0.1 * (1 - chance):
        return (
            "underfit",
            "the head has hardly learned anything from these inputs"
            + (". Standardised inputs or another learning rate would help" if epochs else ""),
        )
    if training < reached - MARGIN:
        return (
            "underfit",
            f"another head reaches {reached:.3f} on validation with the same vectors, more than this one "
            "reaches on its own training images. The vectors hold more than it has fitted: a head of more "
            f"capacity{', or longer and better training,' if epochs else ''} would help; more "
            "regularisation would not",
        )
    if training - validation > GAP:
        return "overfit", _against_overfitting(run, measured)
    if epochs:
        curve = run.history["val_accuracy"]
        gain = validation - max(curve[: max(1, round(len(curve) * 0.8))])
        if gain > GAIN:
            return (
                "underfit",
                f"validation accuracy still rose by {gain:.3f} in the last fifth of the epochs: training "
                "stopped too early. More epochs or a larger learning rate would help",
            )
    return (
        "neither",
        f"the two are {100 * abs(training - validation):.1f} points apart. Better embeddings (more layers, "
        "more pixels) or a head of more capacity would help more than another setting of this one",
    )


def _against_overfitting(run: Run, measured: bool) -> str:
    """Advice against overfitting, from the curves or the sweep."""
    tail = ""
    if run.history:
        loss = np.array(run.history["val_loss"])
        rise = loss[-1] / loss.min() - 1
        if rise >= 0.01:
            tail = f" (its loss ends {rise:.0%} above its minimum, at epoch {loss.argmin() + 1})"
    helps = [] if measured else ["more images"]
    if len(run.sweep) > 1 and on_a_scale(run.chosen.values()):
        settled = (
            f"; how much to regularise is settled: {' and '.join(run.chosen)} was chosen inside its grid"
        )
        if _edge(run):
            settled = ""
            helps.append("a value beyond the grid")
    else:
        settled = "; more epochs would not" if run.history else ""
        helps.append("more regularisation")
    advice = f". {' or '.join(helps).capitalize()} may help" if helps else ""
    return f"it fits its training images better than new ones{tail}{advice}{settled}"


def _more_images(run: Run, points: Sequence[dict[str, Any]]) -> str:
    """Whether more images would help, from the end of the learning curve."""
    if len(points) < 2:
        return ""
    ordered = sorted(points, key=lambda point: point["images"])
    last, before = ordered[-1], ordered[-2]
    doublings = float(np.log2(last["images"] / before["images"]))
    gained = (np.mean(last["accuracy"]) - np.mean(before["accuracy"])) / max(doublings, 1e-9)
    steps = " (and twice the steps)" if run.history else ""
    brings = f" Twice the images{steps} bring about {100 * gained:.1f} points at the end of the curve"
    return f"{brings}: more would help." if gained > DOUBLING else f"{brings}: more would help little."


def _edge(run: Run) -> str:
    edges = [text for text in run.warnings if "of its grid" in text]
    return f" Note: {edges[0]}." if edges else ""
