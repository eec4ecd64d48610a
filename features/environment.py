"""The machine and the packages that numbers depend on."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("numpy", "scipy", "scikit-learn", "tensorflow", "keras", "h5py", "pillow")


@cache
def processor() -> str:
    """The processor's name, as the operating system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def versions() -> dict[str, str]:
    """The installed packages that numbers depend on, without importing them."""
    return {name: version(name) for name in PACKAGES}
