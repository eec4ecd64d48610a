"""The one exception a user is meant to read."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right; its text is the whole message.

    The text says what was expected, what came, and what to do next. The command line prints it as
    one line and exits with code 2; any other exception is a defect of Headroom and keeps its
    traceback.
    """
