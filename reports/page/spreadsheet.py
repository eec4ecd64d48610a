"""CSV cells for programs (unchanged) and for spreadsheets (formulas disabled)."""

from __future__ import annotations

from typing import Any

CSV, SPREADSHEET = "csv", "spreadsheet"  # values of FORMAT
ENCODING = {CSV: "utf-8", SPREADSHEET: "utf-8-sig"}  # the byte order mark tells spreadsheets the encoding


def cell(value: Any, form: str) -> Any:
    """The value for a cell; for spreadsheets, text that would be a formula gets an apostrophe in front.

    OWASP, CSV Injection: https://owasp.org/www-community/attacks/CSV_Injection
    """
    formula = isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r")
    return f"'{value}" if formula and form == SPREADSHEET else value
