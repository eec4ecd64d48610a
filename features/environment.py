"""The processor and the package versions that results depend on."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("numpy", "scipy", "scikit-learn", "tensorflow", "keras", "h5py", "pillow")


@cache
def processor() -> str:
    """The processor's name as reported by the operating system."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def versions() -> dict[str, str]:
    """The versions of the installed packages that results depend on; imports none of them."""
    return {name: version(name) for name in PACKAGES}
