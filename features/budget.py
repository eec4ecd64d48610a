"""How much memory a process may still take."""

from __future__ import annotations

from pathlib import Path

from features.errors import UserError
from features.words import size

CGROUPS = (  # where a container's limit and use stand: cgroup v2, and v1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)

MARGIN = 0.1  # of what is free that is left to all else


def memory_of(memory: int | str | None) -> int:
    """The bytes that may be taken: those that are given, as a number or as in ``4GB``, else what is free.

    Of what is free a tenth is left to all else.

    Raises
    ------
    UserError
        It is no amount of memory.
    """
    if memory is None:
        return int((1 - MARGIN) * available())
    return size("memory", memory)


def available() -> int:
    """Bytes that can be taken without swapping: the machine's, or a container's if that is less."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for limit, used in CGROUPS:
        try:
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # not there, or "max": no limit
            continue
    return max(free, 0)


def require(needed: int, reckoned: str, what: str, remedy: str, free: int | None = None) -> None:
    """Refuse, before it is tried, what does not fit into the memory that is available.

    Parameters
    ----------
    needed, reckoned : the bytes, and the sum that gave them.
    what, remedy : what needs them, and what would need less.
    free : the bytes that may be taken, where that is not what is available.

    Raises
    ------
    UserError
        It does not fit.
    """
    free = available() if free is None else free
    if needed > free:
        raise UserError(
            f"{what} needs at least {gigabytes(needed)} of memory ({reckoned}), {gigabytes(free)} are "
            f"available; {remedy}"
        )


def gigabytes(size: int) -> str:
    """Bytes as people read them."""
    return f"{size / 1e9:,.1f} GB"
