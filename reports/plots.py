"""Numbers in, matplotlib figures out; nothing here writes a file."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from reports.report import Entry, Group

TRAINING, VALIDATION = "#0072B2", "#D55E00"  # Okabe and Ito's blue and vermilion
ANNOTATED = 20  # classes up to which a confusion matrix carries numbers
NAMED = 40  # classes up to which it carries names


def comparison(group: Group, names: Sequence[str]) -> Figure:
    """Test accuracy of every run with its 95% interval, best on top."""
    entries = group.entries
    figure = Figure(figsize=(7.5, 1.1 + 0.5 * len(entries)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(entries))
    values = np.array([entry.accuracy["value"] for entry in entries])
    low = values - [entry.accuracy["low"] for entry in entries]
    high = np.array([entry.accuracy["high"] for entry in entries]) - values
    axes.errorbar(values, places, xerr=[low, high], fmt="o", color=TRAINING, capsize=3)
    for place, value, up in zip(places, values, high, strict=True):
        axes.annotate(f"{value:.3f}", (value + up, place), (6, 0), textcoords="offset points", va="center")
    axes.set_yticks(places, [textwrap.fill(name, 34) for name in names])
    for tick in axes.get_yticklabels():
        tick.set_parse_math(False)
    axes.set_ylim(len(entries) - 0.5, -0.5)
    axes.margins(x=0.2)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(f"test accuracy on {group.test_images:,} images, with 95% interval (Wilson)")
    return figure


def curves(entry: Entry) -> Figure:
    """Accuracy and loss of training against validation, by epoch; the kept epoch is marked."""
    history = entry.history
    epochs = np.arange(1, len(history["accuracy"]) + 1)
    kept = entry.kept_epoch or len(epochs)
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    for axes, name, unit in zip(
        figure.subplots(1, 2), ("accuracy", "loss"), ("accuracy", "cross-entropy (nats)"), strict=True
    ):
        axes.plot(epochs, history[name], "o-", ms=3.5, color=TRAINING, label="training")
        axes.plot(epochs, history[f"val_{name}"], "s--", ms=3.5, color=VALIDATION, label="validation")
        axes.axvline(kept, color="0.55", lw=1, ls=":", zorder=0)
        axes.set_xlabel(f"epoch (dotted: kept, {kept})")
        axes.set_ylabel(unit)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, loc="best")
    return figure


def sweep(entry: Entry) -> Figure:
    """Validation accuracy over the swept parameter; the chosen value is marked."""
    name, chosen = next(iter(entry.chosen.items()))
    values = [tried["value"] for tried in entry.sweep]
    accuracy = [tried["accuracy"] for tried in entry.sweep]
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.semilogx(values, accuracy, "s--", ms=4, color=VALIDATION, label="validation")
    axes.axvline(chosen, color="0.55", lw=1, ls=":", zorder=0)
    axes.set_xlabel(f"{name.rpartition('__')[2]} (dotted: chosen, {chosen:g})")
    axes.set_ylabel("accuracy on validation")
    axes.grid(alpha=0.3)
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
        short = [name if len(name) <= 16 else name[:15] + "…" for name in class_names]
        axes.set_xticks(range(classes), short, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(classes), short)
        for tick in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
            tick.set_parse_math(False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    figure.colorbar(image, ax=axes, shrink=0.8, label="% of the true class")
    return figure
