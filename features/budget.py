"""How much memory is available, and refusal of what does not fit."""

from __future__ import annotations

from pathlib import Path

from features.errors import UserError
from features.words import size

CGROUPS = (  # files with a container's memory limit and usage: cgroup v2, then v1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)

MARGIN = 0.1  # share of the free memory that is left for everything else


def memory_of(memory: int | str | None) -> int:
    """The memory limit in bytes.

    Parameters
    ----------
    memory : the limit in bytes or with a unit, such as ``4GB``; None: the free memory less a tenth.

    Raises
    ------
    UserError
        ``memory`` cannot be parsed as a number of bytes.
    """
    if memory is None:
        return int((1 - MARGIN) * available())
    return size("memory", memory)


def available() -> int:
    """Bytes available without swapping, on the machine or within the container's limit."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for limit, used in CGROUPS:
        try:
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such file, or "max": no limit
            continue
    return max(free, 0)


def require(needed: int, reckoned: str, what: str, remedy: str, free: int | None = None) -> None:
    """Refuse an allocation that does not fit into memory, before it is attempted.

    Parameters
    ----------
    needed, reckoned : the required bytes, and the calculation behind them in words.
    what, remedy : what requires them, and what would require less.
    free : the bytes available; None: those of :func:`available`.

    Raises
    ------
    UserError
        More is required than is available.
    """
    free = available() if free is None else free
    if needed > free:
        raise UserError(
            f"{what} needs at least {gigabytes(needed)} of memory ({reckoned}), {gigabytes(free)} is "
            f"available; {remedy}"
        )


def gigabytes(size: int) -> str:
    """A number of bytes in gigabytes (10^9), as text."""
    return f"{size / 1e9:,.1f} GB"
