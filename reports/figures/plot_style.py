"""What the plots share: colours, markers, and names that are text and no formula."""

from __future__ import annotations

from matplotlib.axes import Axes

TRAINING, VALIDATION = "#0072B2", "#D55E00"  # Okabe and Ito's blue and vermilion
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
MARKERS = "osD^vP*X<>hd"
STYLES = ("-", "--", "-.", ":")


def plain_ticks(axes: Axes) -> None:
    """No class name is read as a formula, whatever dollar signs it has."""
    for tick in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        tick.set_parse_math(False)


def short(name: str, length: int) -> str:
    """The name, or as much of it as so many letters hold."""
    return name if len(name) <= length else name[: length - 1] + "…"
