"""Over- or underfitting? One sentence from the numbers, and what would help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from models.heads.parameters import on_a_scale
from models.runs.run import Run

GAP = 0.05  # of accuracy between training and validation that counts as overfitting
MARGIN = 0.02  # of accuracy by which another head must do better to call this one underfit
GAIN = 0.005  # of validation accuracy still gained in the last fifth that counts as unfinished
DOUBLING = 0.01  # of validation accuracy gained by the last doubling of images: more would help


def diagnosis(run: Run, reached: float, points: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Does the head overfit, underfit, or neither? ``{"verdict", "sentence"}``.

    Judged by the selection fit, whose validation images are new to it: accuracy on its training images
    against validation, for a head with epochs at the epoch that was kept, for any other at the
    parameters that were chosen. *Underfit*: accuracy on the training images themselves is less than a
    tenth of the way from chance to 1, or lower by ``MARGIN`` than what another head reaches on
    validation with the same vectors. *Overfit*: training accuracy is more than ``GAP`` above
    validation. *Underfit* too: validation accuracy still rose by more than ``GAIN`` in the last fifth
    of the epochs. *Neither*: otherwise. Nearest neighbours know their training images by heart, so of
    them only validation is judged.

    Parameters
    ----------
    reached : the best validation accuracy of any other head on the same vectors; 0 if none.
    points : the learning curve, if it was measured.
    """
    if run.head == "prior":
        return {"verdict": "floor", "sentence": "The floor: it never looks at an image."}
    if run.members:
        return {"verdict": "vote", "sentence": f"A vote of {len(run.members)} runs: see those for theirs."}
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
    """Of the selection fit: training accuracy (None if it means nothing), validation accuracy, and where."""
    if run.history:
        kept, epochs = (run.kept_epoch or 1) - 1, len(run.history["val_accuracy"])
        where = f"at the kept epoch ({kept + 1} of {epochs})"
        return run.history["accuracy"][kept], run.history["val_accuracy"][kept], where
    best = max(run.sweep, key=lambda row: (row["accuracy"], -row["loss"]))
    where = "with the chosen " + " and ".join(run.chosen) if run.chosen else "in the selection fit"
    return best.get("train_accuracy"), best["accuracy"], where


def _judged(run: Run, training: float, validation: float, reached: float, measured: bool) -> tuple[str, str]:
    """The verdict, and what would help; ``measured``: a learning curve will speak of more images."""
    chance, epochs = 1 / len(run.class_names), bool(run.history)
    if training < chance + 0.1 * (1 - chance):
        return (
            "underfit",
            "the head has hardly learned anything: it cannot use these inputs"
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
    """What the curves or the sweep say of a head that knows its training images better than new ones."""
    tail = ""
    if run.history:
        loss = np.array(run.history["val_loss"])
        rise = loss[-1] / loss.min() - 1
        if rise >= 0.01:
            tail = f" (its loss ends {rise:.0%} above its minimum, at epoch {loss.argmin() + 1})"
    helps = [] if measured else ["more images"]
    if len(run.sweep) > 1 and on_a_scale(run.chosen.values()):
        settled = (
            f"; how much to regularise is settled: {' and '.join(run.chosen)} was chosen among both ends"
        )
        if _edge(run):
            settled = ""
            helps.append("a value beyond the grid")
    else:
        settled = "; more epochs would not" if run.history else ""
        helps.append("more regularisation")
    advice = f". {' or '.join(helps).capitalize()} may help" if helps else ""
    return f"it knows its training images better than new ones{tail}{advice}{settled}"


def _more_images(run: Run, points: Sequence[dict[str, Any]]) -> str:
    """What the end of the learning curve says."""
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
