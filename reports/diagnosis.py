"""Over- or underfitting? One sentence from the numbers, and what would help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from models.runs import Run

GAP = 0.05  # of accuracy between training and validation that counts as overfitting
MARGIN = 0.02  # of accuracy by which another head must do better to call this one underfit
GAIN = 0.005  # of validation accuracy still gained in the last fifth that counts as unfinished
DOUBLING = 0.01  # of validation accuracy gained by the last doubling of images: more would help

UNUSED = (
    "underfit",
    "the head has hardly learned anything: it cannot use these inputs. Standardised inputs or another "
    "learning rate would help",
)


def diagnosis(run: Run, reached: float, points: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Does the head overfit, underfit, or neither? ``{"verdict", "sentence"}``.

    Judged by accuracy on training images against validation: for a head with epochs at the epoch
    that was kept, for any other after the final fit. *Underfit*: accuracy on the training images
    themselves is less than a tenth of the way from chance to 1, or lower by ``MARGIN`` than what
    another head reaches on validation with the same vectors; or validation accuracy still rose by
    more than ``GAIN`` in the last fifth of the epochs. *Overfit*: training accuracy is more than
    ``GAP`` above validation. *Neither*: otherwise.

    Parameters
    ----------
    reached : the best validation accuracy of any other head on the same vectors; 0 if none.
    points : the learning curve, if it was measured.
    """
    if run.head == "prior":
        return {"verdict": "floor", "sentence": "The floor: it never looks at an image."}
    if run.members:
        return {"verdict": "vote", "sentence": f"A vote of {len(run.members)} runs: see those for theirs."}
    history, classes = run.history, len(run.class_names)
    training, validation = run.train_accuracy, run.val_accuracy
    where = "After the final fit"
    gain, tail = 0.0, ""
    if history:
        kept = (run.kept_epoch or 1) - 1
        curve = np.array(history["val_accuracy"])
        training, validation = history["accuracy"][kept], float(curve[kept])
        where = f"At the kept epoch ({kept + 1} of {len(curve)})"
        gain = validation - float(curve[: max(1, round(len(curve) * 0.8))].max())
        loss = np.array(history["val_loss"])
        rise = loss[-1] / loss.min() - 1
        if rise >= 0.01:
            tail = f" (its loss ends {rise:.0%} above its minimum, at epoch {loss.argmin() + 1})"
    if training < 1 / classes + 0.1 * (1 - 1 / classes):
        verdict, advice = UNUSED
    elif training < reached - MARGIN:
        verdict, advice = (
            "underfit",
            f"another head reaches {reached:.3f} on validation with the same vectors, more than this one "
            "reaches on its own training images. The vectors hold more than it has fitted: a head of more "
            "capacity, or longer and better training, would help; more regularisation would not",
        )
    elif gain > GAIN:
        verdict, advice = (
            "underfit",
            f"validation accuracy still rose by {gain:.3f} in the last fifth of the epochs: training stopped "
            "too early. More epochs or a larger learning rate would help",
        )
    elif training - validation > GAP:
        verdict, advice = (
            "overfit",
            f"it knows its training images better than new ones{tail}. More images or more regularisation "
            f"would help{', more epochs would not' if history else ''}",
        )
    else:
        verdict, advice = (
            "neither",
            "training and validation agree. Better embeddings (more layers, more pixels) or a head of more "
            "capacity would help more than another setting of this one",
        )
    opening = "Neither over- nor underfit" if verdict == "neither" else verdict.capitalize()
    sentence = (
        f"{opening}. {where} accuracy is {training:.3f} on training and {validation:.3f} on validation "
        f"images; {advice}.{_more_images(points)}{_edge(run)}"
    )
    return {"verdict": verdict, "sentence": sentence}


def _more_images(points: Sequence[dict[str, Any]]) -> str:
    """What the end of the learning curve says."""
    if len(points) < 2:
        return ""
    ordered = sorted(points, key=lambda point: point["images"])
    last, before = ordered[-1], ordered[-2]
    doublings = float(np.log2(last["images"] / before["images"]))
    gained = (np.mean(last["accuracy"]) - np.mean(before["accuracy"])) / max(doublings, 1e-9)
    brings = f" Twice the images bring about {100 * gained:.1f} points at the end of the curve"
    return f"{brings}: more would help." if gained > DOUBLING else f"{brings}: more would help little."


def _edge(run: Run) -> str:
    edges = [text for text in run.warnings if "of its grid" in text]
    return f" Note: {edges[0]}." if edges else ""
