"""The table of runs after training, and the next command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from features.progress import say
from pipeline.options import Options

if TYPE_CHECKING:
    from models.runs.run import Run

Row = tuple[str, ...]
HEADER = ("head", "seed", "validation", "test (95% interval)", "seconds", "run")
ONLY_FEATURES = ("batch", "max_file", "executor", "address")  # options that stage two ignores


def row(run: Run) -> Row:
    """The cells of ``HEADER`` for a run.

    The interval is Wilson's; seconds are of selection, refit and prediction.
    """
    from reports.statistics.metrics import wilson
    from reports.statistics.ranking import is_right

    correct, total = int(is_right(run).sum()), len(run.test_labels)
    low, high = wilson(correct, total)
    return (
        run.head,
        str(run.seed),
        f"{run.val_accuracy:.4f}",
        f"{correct / total:.4f} ({low:.4f} to {high:.4f})",
        f"{sum(run.seconds.values()):.1f}",
        run.folder,
    )


def table(rows: Sequence[Row]) -> list[str]:
    """Aligned lines with ``HEADER`` as the first; seconds are right-aligned."""
    lines = [HEADER, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if name == "seconds" else cell.ljust(width)
            for name, cell, width in zip(HEADER, line, widths, strict=True)
        ).rstrip()
        for line in lines
    ]


def report_runs(rows: Sequence[Row], options: Options) -> None:
    """Print the table and the next command on standard error."""
    if rows:
        for line in ("", *table(rows), "", f"next: {following(options, 'report')}"):
            say(line)


def following(options: Options, stage: str) -> str:
    """The next command: ``report`` on the same ``OUT``, or ``train`` on the new embeddings."""
    left_out = ONLY_FEATURES if stage == "train" else tuple(name for name in options.said if name != "out")
    return options.without("head", *left_out).command(stage)
