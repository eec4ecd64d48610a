"""The one exception a user is meant to read."""

from __future__ import annotations


class UserError(ValueError):
    """Something the user can put right; its text is the whole message.

    The text says what was expected, what came, and what to do next. It names parameters as Python does
    (``image_size=16: expected at least 32 pixels``). The command line puts it in its own words
    (``IMAGE_SIZE=16: ...``), prints it as one line and exits with code 2; any other exception is a
    defect of Headroom and keeps its traceback.
    """
