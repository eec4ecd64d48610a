"""The executors by name."""

from __future__ import annotations

from features.errors import UserError
from features.executors.base import Executor
from features.executors.local import Local

LOCAL, RAY = "local", "ray"
EXECUTORS = (LOCAL, RAY)


def executor(name: str = LOCAL, address: str | None = None) -> Executor:
    """Who embeds the shards, as ``EXECUTOR=`` and ``ADDRESS=`` say it.

    Raises
    ------
    UserError
        There is none of this name, Ray is not installed, or the address is none or another executor's.
    """
    if name not in EXECUTORS:
        raise UserError(f"executor={name}: expected one of {', '.join(EXECUTORS)}")
    if name == LOCAL:
        if address is not None:
            raise UserError(f"address={address} belongs to executor={RAY}; give both, or leave it out")
        return Local()
    from features.executors.ray import Ray

    return Ray(address)
