"""Common style of the plots: sizes, colours, markers, legends, labels."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Literal

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDE, NARROW, HALF = 8.6, 3.4, 4.6  # widths in inches: page column, phone, half of the page column
TRAINING, VALIDATION = "#0072B2", "#D55E00"  # Okabe and Ito's blue and vermilion
BEHIND = "#7f7f7f"  # of secondary elements
INK = "#1b1f24"  # of text on coloured cells; the page replaces pure black by its text colour
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
MARKERS = "osD^vP*X<>hd"
STYLES = ("-", "--", "-.", ":")
LETTER = 0.075  # width of a letter in a legend, inches
ACCURACY_SPAN = 0.02  # smallest range of an accuracy axis, so that tiny differences do not look large

Place = Literal["outside upper left", "outside lower left", "outside right upper"]  # of a legend
ABOVE: Place = "outside upper left"
BELOW: Place = "outside lower left"
BESIDE: Place = "outside right upper"

styled = rc_context(
    {
        "font.size": 9.5,
        "axes.formatter.useoffset": False,  # no labels such as 1e-5+2.302
        "axes.formatter.limits": (-30, 30),  # no power of ten above an axis
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.fontsize": 8.5,
        "legend.frameon": False,
    }
)


def is_wide(width: float) -> bool:
    """Whether a figure is wide enough for elements side by side."""
    return width > NARROW


def plain_ticks(axes: Axes) -> None:
    """Show tick labels as plain text, since class names may contain dollar signs."""
    for tick in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        tick.set_parse_math(False)


def short(name: str, length: int) -> str:
    """A name, truncated to ``length`` characters."""
    return name if len(name) <= length else name[: length - 1] + "…"


def show_at_least(axes: Axes, span: float) -> None:
    """Widen the y axis to at least ``span``, so that noise does not look like a trend."""
    low, high = axes.get_ylim()
    if high - low < span:
        middle = (low + high) / 2
        axes.set_ylim(middle - span / 2, middle + span / 2)


def legend(figure: Figure, place: Place, handles: Mapping[str, Artist] | None = None) -> None:
    """Add a legend outside the axes.

    Parameters
    ----------
    place : above or below the axes, with as many columns as fit, or beside them in one column.
    handles : by label; None: the labelled artists of the axes, each label once.
    """
    if handles is None:
        labelled = [axes.get_legend_handles_labels() for axes in figure.axes]
        handles = {name: handle for found in labelled for handle, name in zip(*found, strict=True)}
    names = [textwrap.fill(name, 32) for name in handles]
    longest = max(len(line) for name in names for line in name.split("\n"))
    columns = 1 if place == BESIDE else int(figure.get_figwidth() / (0.4 + LETTER * longest))
    drawn = figure.legend(handles.values(), names, loc=place, ncols=max(1, min(len(names), columns)))
    for text in drawn.get_texts():
        text.set_parse_math(False)
