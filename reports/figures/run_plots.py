"""Plots of one run, as matplotlib figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from models.heads.parameters import on_a_scale, shown
from reports.entry import Entry
from reports.figures.plot_style import (
    ABOVE,
    ACCURACY_SPAN,
    BEHIND,
    HALF,
    INK,
    MARKERS,
    SERIES,
    STYLES,
    TRAINING,
    VALIDATION,
    legend,
    plain_ticks,
    short,
    show_at_least,
    styled,
)

ANNOTATED = 20  # classes up to which a confusion matrix shows numbers
WIDE_RANGE = 100  # ratio of the highest to the lowest loss above which the axis is logarithmic
NAMED = 40  # classes up to which a confusion matrix shows all of them
FLAT = 0.02  # smallest range of a loss axis, relative to the loss
MEASURED = (
    "accuracy",
    "loss",
    "train_accuracy",
    "seconds",
)  # results of a candidate; the rest are parameters


@styled
def accuracy_by_epoch(entry: Entry) -> Figure:
    """Training and validation accuracy by epoch; the kept epoch is marked."""
    figure = _by_epoch(entry, "accuracy", "accuracy")
    show_at_least(figure.axes[0], ACCURACY_SPAN)
    return figure


@styled
def loss_by_epoch(entry: Entry) -> Figure:
    """Training and validation loss by epoch; the kept epoch is marked."""
    figure = _by_epoch(entry, "loss", "cross-entropy (nats)")
    (axes,) = figure.axes
    drawn = np.array([*entry.history["loss"], *entry.history["val_loss"]])
    if drawn.min() > 0 and drawn.max() > WIDE_RANGE * drawn.min():
        axes.set_yscale("log")
    else:
        show_at_least(axes, FLAT * float(np.abs(drawn).mean()))
    return figure


def _by_epoch(entry: Entry, name: str, label: str) -> Figure:
    history = entry.history
    epochs = np.arange(1, len(history[name]) + 1)
    kept = entry.kept_epoch or len(epochs)
    figure = Figure(figsize=(HALF, 3.1), layout="constrained")
    axes = figure.subplots()
    axes.plot(epochs, history[name], "o-", ms=3.5, color=TRAINING, label="training")
    axes.plot(epochs, history[f"val_{name}"], "s--", ms=3.5, color=VALIDATION, label="validation")
    axes.axvline(kept, color=BEHIND, lw=1, ls=":", zorder=0)
    axes.set_xlabel(f"epoch (dotted: kept, {kept})")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.grid(alpha=0.3)
    legend(figure, ABOVE)
    return figure


@styled
def sweep(entry: Entry) -> Figure:
    """Training and validation accuracy by the swept parameter, with one line per value of a second one.

    Positive numbers have a logarithmic axis, other values are evenly spaced.
    """
    names = [name for name in entry.sweep[0] if name not in MEASURED]
    swept = next(iter(entry.chosen)) if names == ["value"] else names[0]
    both = len(names) == 1 and "train_accuracy" in entry.sweep[0]
    tried = _values(row[names[0]] for row in entry.sweep)
    scale = on_a_scale(tried) and min(tried) > 0
    places = dict(zip(map(shown, tried), tried if scale else range(len(tried)), strict=True))
    others = _values(row[names[1]] for row in entry.sweep) if len(names) > 1 else [None]
    figure = Figure(figsize=(HALF, 3.1 + 0.18 * ((len(others) + 1) // 2)), layout="constrained")
    axes = figure.subplots()
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
    axes.axvline(places[chosen], color=BEHIND, lw=1, ls=":", zorder=0)
    axes.set_xlabel(f"{swept} (dotted: chosen, {short(chosen, 16)})", parse_math=False)
    axes.set_ylabel("accuracy" if both else "accuracy on validation")
    axes.grid(alpha=0.3)
    show_at_least(axes, ACCURACY_SPAN)
    if both or len(others) > 1:
        legend(figure, ABOVE)
    return figure


def _values(found: Iterable[Any]) -> list[Any]:
    """Distinct values: numbers in ascending order, others in the order in which they were tried."""
    values = list({shown(value): value for value in found}.values())
    return sorted(values) if on_a_scale(values) else values


@styled
def reliability(entry: Entry) -> Figure:
    """Reliability diagram: accuracy by confidence in bins of equal size, before and after scaling."""
    figure = Figure(figsize=(HALF, 2.8), layout="constrained")
    pairs_ = (("unscaled", entry.raw), (f"scaled, temperature {entry.temperature:.2f}", entry.scaled))
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
        axes.set_xlim(-0.03, 1.03)
        axes.set_xticks((0, 0.5, 1), ("0", "0.5", "1"))  # so that labels do not overlap
        axes.set_ylim(-0.03, 1.03)
        axes.set_aspect("equal")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("accuracy")
    return figure


@styled
def confusion_matrix(entry: Entry, class_names: Sequence[str]) -> Figure:
    """Confusion matrix in per cent of the true class (rows); predicted classes are columns.

    With more than ``NAMED`` classes only the most confused ones are shown.
    """
    counts = np.array(entry.confusion)
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shown = np.arange(len(counts)) if len(counts) <= NAMED else most_confused(counts, ANNOTATED)
    cells = np.ix_(shown, shown)
    counts, share = counts[cells], share[cells]
    side = min(9.0, 1.8 + 0.3 * len(shown))
    figure = Figure(figsize=(side + 0.7, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    if len(shown) <= ANNOTATED:
        for row, column in np.ndindex(share.shape):
            value = share[row, column]
            if counts[row, column]:
                text = f"{value:.0f}" if value >= 0.5 else "<1"
                colour = "white" if value > 55 else INK
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7.5)
    names = [short(class_names[code], 16) for code in shown]
    axes.set_xticks(range(len(shown)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(shown)), names)
    plain_ticks(axes)
    if len(shown) < len(class_names):
        axes.set_title(f"the {len(shown)} of {len(class_names):,} classes that are confused most", fontsize=9)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.8, label="% of the true class")
    return figure


def most_confused(counts: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """The classes in the most frequent errors, at most ``most``: (k, k) counts to (m,) class numbers."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    found: dict[int, None] = {}
    for place in np.argsort(-wrong, axis=None, kind="stable"):
        pair = dict.fromkeys(map(int, divmod(place, len(counts))))
        if len(found | pair) > most:
            break
        found |= pair
    return np.array(sorted(found), dtype=np.int64)
