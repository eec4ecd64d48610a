"""Executors by name."""

from __future__ import annotations

from features.errors import UserError
from features.executors.base import Executor
from features.executors.local import Local

LOCAL, RAY = "local", "ray"
EXECUTORS = (LOCAL, RAY)


def executor(name: str = LOCAL, address: str | None = None) -> Executor:
    """The executor of this name.

    Parameters
    ----------
    name : ``local`` or ``ray``.
    address : ``host:port`` of a Ray cluster; None: start Ray on this machine.

    Raises
    ------
    UserError
        There is no such executor, Ray is not installed, or ``address`` is malformed or given without Ray.
    """
    if name not in EXECUTORS:
        raise UserError(f"executor={name}: expected one of {', '.join(EXECUTORS)}")
    if name == LOCAL:
        if address is not None:
            raise UserError(f"address={address} belongs to executor={RAY}; give both, or leave it out")
        return Local()
    from features.executors.ray import Ray

    return Ray(address)
