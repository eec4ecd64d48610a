"""Runs in, report out: statistics, figures, and the pages that show them."""

from typing import TYPE_CHECKING

from features.lazy import lazily

if TYPE_CHECKING:
    from reports.context.gathering import gather
    from reports.page.render import write
    from reports.report import Report, build

__all__ = ["Report", "build", "gather", "write"]

__getattr__ = lazily(
    __name__,
    {
        "Report": "report",
        "build": "report",
        "gather": "context.gathering",
        "write": "page.render",
    },
)
