"""What training ends with: a table of its runs, and the next command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from features.progress import say
from pipeline.options import Options

if TYPE_CHECKING:
    from models.runs.run import Run

Row = tuple[str, ...]
HEADER = ("head", "seed", "validation", "test (95% interval)", "seconds", "run")
ONLY_FEATURES = ("batch", "max_file", "executor", "address")  # what stage two does not read


def row(run: Run) -> Row:
    """The cells of ``HEADER``: accuracies, seconds of selecting, refitting and predicting, the folder.

    The interval is Wilson's, of this run alone.
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
    """Lines with aligned columns below ``HEADER``; numbers of seconds to the right."""
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
    """Print the table on standard error, and the command that compares all runs of this ``OUT``."""
    if rows:
        for line in ("", *table(rows), "", f"next: {following(options, 'report')}"):
            say(line)


def following(options: Options, stage: str) -> str:
    """The next command: ``report`` on the same ``OUT``, or ``train`` on the embeddings that were made."""
    left_out = ONLY_FEATURES if stage == "train" else tuple(name for name in options.said if name != "out")
    return options.without("head", *left_out).command(stage)
