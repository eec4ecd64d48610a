"""The exception for errors that the user can fix."""

from __future__ import annotations


class UserError(ValueError):
    """An error that the user can fix.

    Its text is one line: what was expected, what was found instead, and what to do next. Parameters have
    their Python names (``image_size=16: expected at least 32 pixels``); the command line replaces them by
    its own (``IMAGE_SIZE=16: ...``), prints the line and exits with code 2. Any other exception is a bug in
    Headroom and keeps its traceback.
    """
