"""CSV for programs, which holds the data as it is, and for spreadsheets, which would run some of it."""

from __future__ import annotations

from typing import Any

CSV, SPREADSHEET = "csv", "spreadsheet"  # values of FORMAT
ENCODING = {CSV: "utf-8", SPREADSHEET: "utf-8-sig"}  # the mark tells a spreadsheet that it is UTF-8


def cell(value: Any, form: str) -> Any:
    """A value for a cell: as it is, or for a spreadsheet with an apostrophe before what would be a formula.

    OWASP, CSV Injection: https://owasp.org/www-community/attacks/CSV_Injection
    """
    formula = isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r")
    return f"'{value}" if formula and form == SPREADSHEET else value
