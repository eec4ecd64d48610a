"""Plots that compare heads, as matplotlib figures."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from features.words import listed
from reports.entry import Entry
from reports.figures.plot_style import (
    ABOVE,
    ACCURACY_SPAN,
    BEHIND,
    BELOW,
    BESIDE,
    INK,
    MARKERS,
    SERIES,
    STYLES,
    TRAINING,
    WIDE,
    is_wide,
    legend,
    plain_ticks,
    short,
    show_at_least,
    styled,
)
from reports.report import Group

MAPPED = 20  # classes up to which a map distinguishes them
LINES = 8  # runs per line plot: one per colour
STEPS = (1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 75, 100)  # limits of the colour scale of pairs, in points
AT_A_GLANCE = 8, 5  # configurations in the first plot; on a phone
CELL = 0.42  # inches from which a cell of pairs shows its number


class Row(NamedTuple):
    """A row of a plot of intervals; ``seeds`` are drawn as small bars, ``back`` in a paler colour."""

    name: str
    value: float
    low: float
    high: float
    seeds: Sequence[float] = ()
    back: bool = False


@styled
def comparison(group: Group, width: float = WIDE) -> Figure:
    """Test accuracy of the best configurations with 95% intervals, best on top; others are listed."""
    shown = group.drawn[: AT_A_GLANCE[not is_wide(width)]]
    rows = [Row(each.name, each.value, each.low, each.high, each.seeds, not each.level) for each in shown]
    notes = []
    if any(row.back for row in rows):
        several = sum(not row.back for row in rows) > 1
        notes.append("blue: the best" + (", and those not distinguishable from it" if several else ""))
    if any(row.seeds for row in rows):
        notes.append("small bars: single seeds")
    beside = [f"{each.name} {each.value:.3f}" for each in group.standings[len(shown) :]]
    if beside:
        notes.append(f"lower, not drawn: {listed(beside)}")
    label = f"test accuracy on {group.test_images:,} images, 95% interval"
    return _intervals(rows, label, "; ".join(notes), width)


@styled
def ladder(group: Group, width: float = WIDE) -> Figure:
    """Test accuracy of every rung with 95% intervals, the first on top."""
    rows = [Row(rung.title, rung.value, rung.low, rung.high) for rung in group.ladder]
    return _intervals(rows, f"test accuracy on {group.test_images:,} images, 95% interval", "", width)


@styled
def pairs(group: Group, width: float = WIDE) -> Figure:
    """Differences in accuracy between all pairs of configurations, in points: row minus column.

    The colour scale covers the differences among the heads in :func:`comparison`, so that an outlier does
    not leave the others without contrast.
    """
    ids = list(dict.fromkeys(id for pair in group.pairs for id in (pair.first, pair.second)))
    names = {each.id: short(each.name, 30 if is_wide(width) else 15) for each in group.standings}
    points = np.full((len(ids), len(ids)), np.nan)
    clear = np.zeros_like(points, dtype=bool)
    for pair in group.pairs:
        row, column = ids.index(pair.first), ids.index(pair.second)
        points[row, column], points[column, row] = 100 * pair.difference, -100 * pair.difference
        clear[row, column] = clear[column, row] = pair.distinguishable
    side = min(0.55, (width - (3.3 if is_wide(width) else 1.6)) / len(ids))
    limit = _limit(group)
    figure = Figure(figsize=(min(width, 3.3 + side * len(ids)), 1.6 + side * len(ids)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(points, cmap="RdBu", vmin=-limit, vmax=limit)
    for row, column in np.argwhere(np.isfinite(points)):
        value = points[row, column]
        text = f"{0.0 if abs(value) < 0.05 else value:+.1f}" if side >= CELL else ""
        if not clear[row, column]:
            text = f"({text})" if text else "="
        colour = "white" if abs(value) > 0.6 * limit else INK
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    places = [str(place + 1) for place in range(len(ids))]
    axes.set_xticks(range(len(ids)), places)
    labels = [f"{names[id]}  {place}" for id, place in zip(ids, places, strict=True)]
    axes.set_yticks(range(len(ids)), labels, fontsize=8.5)
    plain_ticks(axes)
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    for spine in axes.spines.values():
        spine.set_visible(False)
    clipped = bool(np.nanmax(np.abs(points)) > limit)
    bar = figure.colorbar(
        image, ax=axes, location="bottom", shrink=0.9, aspect=30, extend="both" if clipped else "neither"
    )
    ends = ("≤ ", "≥ ") if clipped else ("", "")
    bar.set_ticks([-limit, 0, limit], labels=[f"{ends[0]}{-limit:g}", "0", f"{ends[1]}+{limit:g}"])
    sign = "in brackets" if side >= CELL else "="
    bar.set_label(f"row minus column, points of accuracy\n{sign}: not distinguishable", fontsize=8)
    return figure


def _limit(group: Group) -> float:
    """The limit of the colour scale in points.

    Twice the lower quartile of the differences among the heads drawn, so that small differences use half of
    the colours.
    """
    drawn = {each.id for each in group.drawn}
    among = [100 * abs(pair.difference) for pair in group.pairs if {pair.first, pair.second} <= drawn]
    reach = 2 * float(np.quantile(among, 0.25)) if among else 0.0
    return next((step for step in STEPS if step >= reach), STEPS[-1])


@styled
def learning(group: Group, width: float = WIDE) -> Figure:
    """Validation accuracy by training images per class: mean of the samples, band from minimum to maximum."""
    entries = [entry for entry in group.configurations if entry.curve][:LINES]
    figure, axes = _lines(width, len(entries))
    for entry, marker, style, colour in _styled(entries):
        points = sorted(entry.curve, key=lambda point: point["shots"])
        shots = [point["shots"] for point in points]
        means = [np.mean(point["accuracy"]) for point in points]
        axes.plot(shots, means, marker + style, ms=4, color=colour, label=entry.name)
        low = [min(point["accuracy"]) for point in points]
        high = [max(point["accuracy"]) for point in points]
        axes.fill_between(shots, low, high, color=colour, alpha=0.12, lw=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.set_xlabel("training images per class\n(band: range of the samples)")
    axes.set_ylabel("accuracy on validation")
    _legend_beside(figure, width)
    return figure


@styled
def coverage(group: Group, width: float = WIDE) -> Figure:
    """Accuracy on the most confident share of the test images."""
    drawn = {each.id for each in group.drawn}
    entries = [entry for entry in group.configurations if entry.id in drawn][:LINES]
    figure, axes = _lines(width, len(entries))
    for entry, marker, style, colour in _styled(entries):
        x = [100 * point["coverage"] for point in entry.coverage]
        y = [point["accuracy"] for point in entry.coverage]
        axes.plot(x, y, style, marker=marker, markevery=10, ms=4, color=colour, label=entry.name)
    axes.set_xlabel("test images answered (%),\nthe most confident first")
    axes.set_ylabel("accuracy on these")
    show_at_least(axes, ACCURACY_SPAN)
    _legend_beside(figure, width)
    return figure


@styled
def pareto(group: Group, width: float = WIDE) -> Figure:
    """Test accuracy against cost, one panel per kind of cost; the line is the Pareto front.

    Markers are heads, colours are embeddings. Costs that are equal for all are omitted.
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
    columns = 2 if is_wide(width) else 1
    rows = -(-len(telling) // columns)
    figure = Figure(figsize=(width, 0.8 + 2.6 * rows + 0.2 * len(coloured)), layout="constrained")
    panels = list(np.ravel(figure.subplots(rows, columns)))
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
    heads = {head: _handle(marker, BEHIND) for head, marker in marked.items()}
    legend(figure, ABOVE, heads)
    if len(coloured) > 1:
        legend(figure, BELOW, {name: _handle("s", colour) for name, colour in coloured.items()})
    return figure


@styled
def embedding_map(group: Group, width: float = WIDE) -> Figure:
    """PCA and t-SNE of a sample of test embeddings, coloured by class; errors of the best run are crosses.

    With more than ``MAPPED`` classes all have one colour.
    """
    drawn: dict[str, Any] = group.map or {}
    labels, wrong = np.array(drawn["labels"]), np.array(drawn["wrong"])
    told = len(group.class_names) <= MAPPED
    columns = 2 if is_wide(width) else 1
    rows = 3 - columns
    figure = Figure(figsize=(width, rows * 3.6 + 1.0), layout="constrained")
    plans = (("pca", "principal component {}"), ("tsne", "t-SNE axis {} (distances mean little)"))
    colours = (*SERIES, "#999933", "#AA4499")
    handles: dict[str, Any] = {}  # explicit, since matplotlib omits labels that start with _
    for axes, (key, label) in zip(np.ravel(figure.subplots(rows, columns)), plans, strict=True):
        xy = np.array(drawn[key])
        for code, name in enumerate(group.class_names if told else ["correct"]):
            here = labels == code if told else ~wrong
            marker = MARKERS[code % len(MARKERS)] if told else "o"
            colour = colours[code % len(colours)]
            (points,) = axes.plot(*xy[here].T, marker, ms=3, color=colour, alpha=0.7, mew=0, ls="")
            handles[short(name, 16)] = points
        (handles["wrong"],) = axes.plot(*xy[wrong].T, "x", ms=5, color="black", mew=0.8, ls="")
        axes.set_xlabel(label.format(1))
        axes.set_ylabel(label.format(2))
        axes.set_xticks([])
        axes.set_yticks([])
    legend(figure, BELOW, handles)
    return figure


def _intervals(rows: Sequence[Row], label: str, note: str, width: float) -> Figure:
    """Plot values with intervals as rows, the first on top, with a note below."""
    wide = is_wide(width)
    letters, most = (44, 3) if wide else (18, 2)
    names = [textwrap.wrap(row.name, letters, max_lines=most, placeholder=" …") for row in rows]
    lines = max(map(len, names))
    below = textwrap.wrap(note, 130 if wide else 50)
    height = (0.75 if wide else 0.9) + max(0.3, 0.15 * lines + 0.08) * len(rows) + 0.17 * len(below)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        around = [[max(row.value - row.low, 0)], [max(row.high - row.value, 0)]]
        colour = BEHIND if row.back else TRAINING
        axes.errorbar(row.value, place, xerr=around, fmt="o", ms=5, color=colour, capsize=3)
        axes.plot(row.seeds, [place + 0.22] * len(row.seeds), "|", ms=5, color=colour)
        numbers = f"{row.value:.3f}" + (f"  ({row.low:.3f}–{row.high:.3f})" if wide else "")
        axes.text(1.01, place, numbers, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5)
    axes.set_yticks(range(len(rows)), ["\n".join(name) for name in names], fontsize=8.5)
    plain_ticks(axes)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    low, high = min(row.low for row in rows), max(row.high for row in rows)
    margin = max(0.05 * (high - low), (ACCURACY_SPAN - (high - low)) / 2)
    axes.set_xlim(low - margin, high + margin)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(label if wide else textwrap.fill(label, 30), fontsize=8.5)
    if below:
        figure.supxlabel("\n".join(below), x=0.01, ha="left", fontsize=8.5, parse_math=False)
    return figure


def _lines(width: float, lines: int) -> tuple[Figure, Axes]:
    """A figure for a plot with so many lines in its legend."""
    figure = Figure(figsize=(width, 3.6 if is_wide(width) else 2.8 + 0.17 * lines), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    return figure, axes


def _legend_beside(figure: Figure, width: float) -> None:
    legend(figure, BESIDE if is_wide(width) else BELOW)


def _styled(entries: Sequence[Entry]) -> Any:
    """Each entry with a marker, a line style and a colour."""
    return zip(entries, cycle(MARKERS), cycle(STYLES), cycle(SERIES), strict=False)


def _handle(marker: str, colour: str) -> Line2D:
    """A legend handle for a marker."""
    return Line2D([], [], marker=marker, color=colour, ls="", ms=6)
