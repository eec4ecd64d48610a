"""What a head cannot do, reported in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from features.errors import UserError


class Refused(ValueError):
    """What a head cannot be, be fitted on or come to: the user's to put right.

    A parameter out of its range, one class only, training that diverges. A ``ValueError``, as
    scikit-learn's estimators raise; any other from within a head is a defect.
    """


@contextmanager
def refusing() -> Iterator[None]:
    """Tell what a head refuses as the one line it is."""
    try:
        yield
    except Refused as error:
        raise UserError(f"the head refuses these embeddings: {error}") from error
