"""Plots of one run: numbers in, matplotlib figures out; nothing here writes a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from models.heads.parameters import on_a_scale, shown
from reports.entry import Entry
from reports.figures.plot_style import MARKERS, SERIES, STYLES, TRAINING, VALIDATION, plain_ticks, short

ANNOTATED = 20  # classes up to which a confusion matrix carries numbers
WIDE = 100  # times the lowest loss from which on the highest asks for a logarithmic axis
NAMED = 40  # classes up to which it carries names
MEASURED = ("accuracy", "loss", "train_accuracy", "seconds")  # of a candidate of a sweep; the rest names it


def curves(entry: Entry) -> Figure:
    """Accuracy and loss of training against validation, by epoch; the kept epoch is marked."""
    history = entry.history
    epochs = np.arange(1, len(history["accuracy"]) + 1)
    kept = entry.kept_epoch or len(epochs)
    figure = Figure(figsize=(6.8, 3.0), layout="constrained")
    for axes, name, unit in zip(
        figure.subplots(1, 2), ("accuracy", "loss"), ("accuracy", "cross-entropy (nats)"), strict=True
    ):
        axes.plot(epochs, history[name], "o-", ms=3.5, color=TRAINING, label="training")
        axes.plot(epochs, history[f"val_{name}"], "s--", ms=3.5, color=VALIDATION, label="validation")
        axes.axvline(kept, color="0.55", lw=1, ls=":", zorder=0)
        axes.set_xlabel(f"epoch (dotted: kept, {kept})")
        axes.set_ylabel(unit)
        drawn = np.array([*history[name], *history[f"val_{name}"]])
        if name == "loss" and drawn.min() > 0 and drawn.max() > WIDE * drawn.min():
            axes.set_yscale("log")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, loc="best")
    return figure


def sweep(entry: Entry) -> Figure:
    """Accuracy over the swept parameter, training against validation (a line for each value of a second).

    Positive numbers stand on a logarithmic axis, anything else side by side.
    """
    names = [name for name in entry.sweep[0] if name not in MEASURED]
    swept = next(iter(entry.chosen)) if names == ["value"] else names[0]
    both = len(names) == 1 and "train_accuracy" in entry.sweep[0]
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = figure.subplots()
    tried = _values(row[names[0]] for row in entry.sweep)
    scale = on_a_scale(tried) and min(tried) > 0
    places = dict(zip(map(shown, tried), tried if scale else range(len(tried)), strict=True))
    others = _values(row[names[1]] for row in entry.sweep) if len(names) > 1 else [None]
    for other, style, marker, colour in zip(
        others, cycle(STYLES), cycle(MARKERS), cycle(SERIES), strict=False
    ):
        rows = sorted(
            (row for row in entry.sweep if len(names) == 1 or row[names[1]] == other),
            key=lambda row: places[shown(row[names[0]])],
        )
        label = "validation" if len(names) == 1 else f"{names[1]} {shown(other)}"
        x = [places[shown(row[names[0]])] for row in rows]
        if both:
            trained = [row["train_accuracy"] for row in rows]
            axes.plot(x, trained, "o-", ms=4, color=TRAINING, label="training")
            marker, style, colour = "s", "--", VALIDATION
        axes.plot(x, [row["accuracy"] for row in rows], marker + style, ms=4, color=colour, label=label)
    if scale:
        axes.set_xscale("log")
    axes.set_xticks(list(places.values()), [short(name, 16) for name in places], rotation=40, fontsize=8)
    plain_ticks(axes)
    axes.minorticks_off()
    chosen = shown(entry.chosen[swept])
    axes.axvline(places[chosen], color="0.55", lw=1, ls=":", zorder=0)
    axes.set_xlabel(f"{swept} (dotted: chosen, {short(chosen, 16)})", parse_math=False)
    axes.set_ylabel("accuracy" if both else "accuracy on validation")
    axes.grid(alpha=0.3)
    if both or len(others) > 1:
        for text in axes.legend(frameon=False, fontsize=8).get_texts():
            text.set_parse_math(False)
    return figure


def _values(found: Iterable[Any]) -> list[Any]:
    """Each value once: numbers in ascending order, others in the order in which they were tried."""
    values = list({shown(value): value for value in found}.values())
    return sorted(values) if on_a_scale(values) else values


def reliability(entry: Entry) -> Figure:
    """Accuracy against confidence in bins of equally many images, before and after scaling."""
    figure = Figure(figsize=(5.4, 3.3), layout="constrained")
    pairs_ = (("as they come", entry.raw), (f"scaled, temperature {entry.temperature:.2f}", entry.scaled))
    for axes, (title, numbers) in zip(figure.subplots(1, 2, sharey=True), pairs_, strict=True):
        bins = [row for row in numbers["bins"] if row["count"]]
        x = np.array([row["confidence"] for row in bins])
        y = np.array([row["accuracy"] for row in bins])
        low, high = (np.array([row[side] for row in bins]) for side in ("low", "high"))
        axes.plot([0, 1], [0, 1], color="0.6", lw=1, ls="--")
        around = [np.maximum(y - low, 0), np.maximum(high - y, 0)]
        axes.errorbar(x, y, yerr=around, fmt="o", ms=4, color=TRAINING, capsize=2)
        axes.set_title(f"{title}\nECE {numbers['ece']['value']:.3f}", fontsize=9)
        axes.set_xlabel("confidence")
        axes.set_xlim(0, 1)
        axes.set_xticks((0, 0.5, 1), ("0", "0.5", "1"))  # so that no label meets its neighbour's
        axes.set_ylim(0, 1)
        axes.set_aspect("equal")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("share that is right (95% interval)")
    return figure


def confusion_matrix(entry: Entry, class_names: Sequence[str]) -> Figure:
    """Per cent of each true class (rows) that was called each class (columns)."""
    counts = np.array(entry.confusion)
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = len(class_names)
    side = min(9.0, 2.2 + 0.3 * classes)
    figure = Figure(figsize=(side + 0.7, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    if classes <= ANNOTATED:
        for row, column in np.ndindex(share.shape):
            value = share[row, column]
            if counts[row, column]:
                text = f"{value:.0f}" if value >= 0.5 else "<1"
                colour = "white" if value > 55 else "black"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    if classes <= NAMED:
        names = [short(name, 16) for name in class_names]
        axes.set_xticks(range(classes), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(classes), names)
        plain_ticks(axes)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    figure.colorbar(image, ax=axes, shrink=0.8, label="% of the true class")
    return figure
