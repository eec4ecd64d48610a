"""Plots of head against head: numbers in, matplotlib figures out; nothing here writes a file."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from reports.entry import Entry
from reports.figures.plot_style import MARKERS, SERIES, STYLES, TRAINING, plain_ticks, short
from reports.report import Group

MAPPED = 20  # classes up to which a map tells them apart
LINES = 10  # runs in one figure of lines


def comparison(group: Group) -> Figure:
    """Test accuracy of every run with its 95% interval, best on top."""
    entries = [entry for entry in group.entries if entry.head != "prior"] or group.entries
    figure = Figure(figsize=(7.5, 1.1 + 0.42 * len(entries)), layout="constrained")
    axes = figure.subplots()
    _intervals(axes, [entry.name for entry in entries], [entry.accuracy for entry in entries])
    axes.set_xlabel(f"test accuracy on {group.test_images:,} images, with 95% interval (Wilson)")
    return figure


def ladder(group: Group) -> Figure:
    """Test accuracy of every rung with its 95% interval, the first on top."""
    rungs = group.ladder
    figure = Figure(figsize=(7.5, 1.1 + 0.42 * len(rungs)), layout="constrained")
    axes = figure.subplots()
    values = [{"value": rung.value, "low": rung.low, "high": rung.high} for rung in rungs]
    _intervals(axes, [rung.title for rung in rungs], values)
    axes.set_xlabel(f"test accuracy on {group.test_images:,} images, with 95% interval (Wilson)")
    return figure


def pairs(group: Group) -> Figure:
    """Difference in accuracy of every pair of configurations, in points: row minus column."""
    ids = list(dict.fromkeys(id for pair in group.pairs for id in (pair.first, pair.second)))
    names = [short(group.entry(id).name, 30) for id in ids]
    points = np.full((len(ids), len(ids)), np.nan)
    clear = np.zeros_like(points, dtype=bool)
    for pair in group.pairs:
        row, column = ids.index(pair.first), ids.index(pair.second)
        points[row, column], points[column, row] = 100 * pair.difference, -100 * pair.difference
        clear[row, column] = clear[column, row] = pair.distinguishable
    side = 2.6 + 0.52 * len(ids)
    figure = Figure(figsize=(side + 0.9, side), layout="constrained")
    axes = figure.subplots()
    limit = max(1.0, float(np.nanmedian(np.abs(points))))  # a head far off would drown the others
    image = axes.imshow(points, cmap="RdBu", vmin=-limit, vmax=limit)
    for row, column in np.argwhere(np.isfinite(points)):
        value = points[row, column]
        value = 0.0 if abs(value) < 0.05 else value
        text = f"{value:+.1f}" if clear[row, column] else f"({value:+.1f})"
        colour = "white" if abs(value) > 0.6 * limit else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7.5)
    axes.set_xticks(range(len(ids)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(ids)), names)
    plain_ticks(axes)
    axes.set_title("in brackets: not distinguishable on this test set", fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.7, extend="both", label="accuracy, row minus column (points)")
    return figure


def learning(group: Group) -> Figure:
    """Validation accuracy against training images per class: mean of the samples, band from least to most."""
    entries = [entry for entry in group.configurations if entry.curve][:LINES]
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for entry, marker, style, colour in _styled(entries):
        points = sorted(entry.curve, key=lambda point: point["shots"])
        shots = [point["shots"] for point in points]
        axes.plot(
            shots,
            [np.mean(point["accuracy"]) for point in points],
            marker + style, ms=4, color=colour, label=entry.name,
        )  # fmt: skip
        low = [min(point["accuracy"]) for point in points]
        high = [max(point["accuracy"]) for point in points]
        axes.fill_between(shots, low, high, color=colour, alpha=0.12, lw=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.set_xlabel("training images per class (band: least to most of the samples)")
    axes.set_ylabel("accuracy on validation")
    axes.grid(alpha=0.3)
    _legend_beside(axes)
    return figure


def coverage(group: Group) -> Figure:
    """Accuracy on the share of test images that a head is surest of."""
    entries = [entry for entry in group.configurations if entry.head != "prior"][:LINES]
    figure = Figure(figsize=(7.5, 3.8), layout="constrained")
    axes = figure.subplots()
    for entry, marker, style, colour in _styled(entries):
        x = [100 * point["coverage"] for point in entry.coverage]
        y = [point["accuracy"] for point in entry.coverage]
        axes.plot(x, y, style, marker=marker, markevery=10, ms=4, color=colour, label=entry.name)
    axes.set_xlabel("test images answered, the most confident first (%)")
    axes.set_ylabel("accuracy on those")
    axes.grid(alpha=0.3)
    _legend_beside(axes)
    return figure


def pareto(group: Group) -> Figure:
    """Test accuracy against what it cost, one picture a cost; the line joins those no other beats.

    A head has its marker, an embedding its colour. What cost all the same is left to the table.
    """
    plans = (
        ("extract_seconds", "running the network over all images (s)", 1.0),
        ("cache_bytes", "embeddings on disk (MB)", 1e6),
        ("fit_seconds", "choosing and fitting the head (s)", 1.0),
        ("predict_seconds_per_1000", "head's prediction of 1,000 vectors (ms)", 1e-3),
    )
    entries = [entry for entry in group.configurations if entry.head != "prior"]
    marked = dict(zip(dict.fromkeys(entry.head for entry in entries), cycle(MARKERS), strict=False))
    coloured = dict(zip(dict.fromkeys(entry.embedding for entry in entries), cycle(SERIES), strict=False))
    telling = [plan for plan in plans if len({entry.costs[plan[0]] for entry in entries}) > 1] or plans[2:]
    rows = (len(telling) + 1) // 2
    figure = Figure(figsize=(8.6, 0.6 + 2.9 * rows + 0.2 * len(coloured)), layout="constrained")
    panels = list(figure.subplots(rows, 2).flat)
    for axes in panels[len(telling) :]:
        figure.delaxes(axes)
    for axes, (key, label, unit) in zip(panels, telling, strict=False):
        known = [(cost / unit, entry) for entry in entries if (cost := entry.costs[key]) is not None]
        for cost, entry in known:
            axes.plot(
                cost, entry.accuracy["value"], marked[entry.head], ms=6, alpha=0.85,
                color=coloured[entry.embedding],
            )  # fmt: skip
        front: list[tuple[float, float]] = []
        for cost, entry in sorted(known, key=lambda pair: (pair[0], -pair[1].accuracy["value"])):
            if not front or entry.accuracy["value"] > front[-1][1]:
                front.append((cost, entry.accuracy["value"]))
        if len(front) > 1:
            axes.plot(*zip(*front, strict=True), color="0.6", lw=1, zorder=0)
        least, most = (end((cost for cost, _ in known), default=0.0) for end in (min, max))
        if least > 0:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if most < 100 * least else (1,)))
            axes.xaxis.set_major_formatter("{x:,g}")
            axes.minorticks_off()
        axes.set_xlabel(label)
        axes.set_ylabel("test accuracy")
        axes.grid(alpha=0.3)
    heads = [_handle(head, marker, "0.35") for head, marker in marked.items()]
    embeddings = [_handle(embedding, "s", colour) for embedding, colour in coloured.items()]
    figure.legend(handles=heads, loc="outside upper center", ncols=min(6, len(heads) or 1), frameon=False)
    if len(embeddings) > 1:
        figure.legend(handles=embeddings, loc="outside lower center", frameon=False, fontsize=8.5)
    return figure


def embedding_map(group: Group) -> Figure:
    """PCA and t-SNE of a sample of test embeddings, coloured by class; errors of the best run crossed."""
    drawn: dict[str, Any] = group.map or {}
    labels, wrong = np.array(drawn["labels"]), np.array(drawn["wrong"])
    figure = Figure(figsize=(10.5, 5.4), layout="constrained")
    plans = (("pca", "principal component {}"), ("tsne", "t-SNE axis {} (distances mean little)"))
    colours = (*SERIES, "#999933", "#AA4499")
    handles: dict[str, Any] = {}  # by name: matplotlib would leave out a label that begins with _
    for axes, (key, label) in zip(figure.subplots(1, 2), plans, strict=True):
        xy = np.array(drawn[key])
        for code, name in enumerate(group.class_names):
            here = labels == code
            marker = MARKERS[code % len(MARKERS)] if len(group.class_names) <= MAPPED else "o"
            colour = colours[code % len(colours)]
            (points,) = axes.plot(*xy[here].T, marker, ms=3, color=colour, alpha=0.7, mew=0, ls="")
            handles[short(name, 16)] = points
        (handles["called wrongly"],) = axes.plot(*xy[wrong].T, "x", ms=5, color="black", mew=0.8, ls="")
        axes.set_xlabel(label.format(1))
        axes.set_ylabel(label.format(2))
        axes.set_xticks([])
        axes.set_yticks([])
    if len(group.class_names) <= MAPPED:
        legend = figure.legend(
            handles.values(), handles, loc="outside lower center", ncols=6, frameon=False, markerscale=2
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def _intervals(axes: Axes, names: Sequence[str], numbers: Sequence[dict[str, Any]]) -> None:
    """Values with their intervals, one below the other, the first on top."""
    places = np.arange(len(names))
    values = np.array([number["value"] for number in numbers])
    low = np.maximum(values - [number["low"] for number in numbers], 0)
    high = np.maximum(np.array([number["high"] for number in numbers]) - values, 0)
    axes.errorbar(values, places, xerr=[low, high], fmt="o", color=TRAINING, capsize=3)
    for place, value, up in zip(places, values, high, strict=True):
        axes.annotate(f"{value:.3f}", (value + up, place), (6, 0), textcoords="offset points", va="center")
    axes.set_yticks(places, [textwrap.fill(name, 44) for name in names], fontsize=8.5)
    plain_ticks(axes)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.margins(x=0.2)
    axes.grid(axis="x", alpha=0.3)


def _styled(entries: Sequence[Entry]) -> Any:
    """Each entry with a marker, a line style and a colour of its own."""
    return zip(entries, cycle(MARKERS), cycle(STYLES), cycle(SERIES), strict=False)


def _legend_beside(axes: Axes) -> None:
    legend = axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    for text in legend.get_texts():
        text.set_parse_math(False)
        text.set_text(textwrap.fill(text.get_text(), 32))


def _handle(name: str, marker: str, colour: str) -> Line2D:
    """What stands beside a name in a legend of markers."""
    return Line2D([], [], marker=marker, color=colour, ls="", ms=6, label=name)
