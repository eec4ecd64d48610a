"""Errors of heads that the user can fix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from features.errors import UserError


class Refused(ValueError):
    """An error of a head that the user can fix: an invalid parameter, one class only, diverging training.

    It is a ``ValueError``, as raised by scikit-learn's estimators; any other exception of a head is a bug.
    """


@contextmanager
def refusing() -> Iterator[None]:
    """Convert :class:`Refused` to ``UserError``."""
    try:
        yield
    except Refused as error:
        raise UserError(f"the head refuses these embeddings: {error}") from error
