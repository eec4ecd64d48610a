"""Text that a spreadsheet shows and does not run."""

from __future__ import annotations

from typing import Any


def cell(value: Any) -> Any:
    """A value for a cell: text that would be a formula is kept text by an apostrophe.

    OWASP, CSV Injection: https://owasp.org/www-community/attacks/CSV_Injection
    """
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
