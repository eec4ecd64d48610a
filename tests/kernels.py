"""The numerical tests under every OpenBLAS kernel that this processor can run: `make kernels`.

OpenBLAS picks its kernels by processor, and kernels round differently: what converges with one may
not with another. The wheels of NumPy and SciPy hold one kernel for each family of processors that is
listed here; a kernel that this processor cannot run is skipped by name.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NUMERICAL = [
    f"tests/{path}"
    for path in (
        "models/heads/test_linear.py",
        "models/heads/test_knn.py",
        "models/test_selection.py",
        "models/test_trainsplit.py::TestHeadsOfMoments",
        "models/test_trainsplit.py::TestKnn",
        "models/test_temperature.py",
        "reports/context/test_neighbours.py",
        "reports/statistics/test_calibration.py",
        "reports/statistics/test_paired.py",
    )
]
NEEDS = {  # instructions of the processor, as Linux lists them, by kernel
    "Prescott": ("pni",),
    "Nehalem": ("sse4_2",),
    "Sandybridge": ("avx",),
    "Haswell": ("avx2", "fma"),
    "SkylakeX": ("avx512f", "avx512bw", "avx512dq", "avx512vl"),
}
REPORTED = {"Prescott": "Katmai"}  # where threadpoolctl names a kernel otherwise
LOADED = """
import numpy, scipy.linalg, threadpoolctl
pools = threadpoolctl.threadpool_info()
print(*{pool["architecture"] for pool in pools if pool["internal_api"] == "openblas"})
"""


def instructions() -> set[str]:
    """Of this processor; none where Linux does not list them as it does for x86-64."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return set(next((line for line in lines if line.startswith("flags")), "").split())


@pytest.mark.parametrize(
    ("kernel", "threads"),
    [("Prescott", 1), ("Nehalem", 2), ("Sandybridge", 1), ("Haswell", 2), ("SkylakeX", 1), ("SkylakeX", 2)],
)
def test_the_numerical_tests_pass(kernel: str, threads: int) -> None:
    if missing := set(NEEDS[kernel]) - instructions():
        pytest.skip(f"{kernel}: this processor has no {', '.join(sorted(missing))}")
    chosen = os.environ | {"OPENBLAS_CORETYPE": kernel, "OPENBLAS_NUM_THREADS": str(threads)}

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, env=chosen, capture_output=True, text=True
        )

    assert python("-c", LOADED).stdout.split() == [REPORTED.get(kernel, kernel)]
    done = python("-m", "pytest", *NUMERICAL, "-m", "not slow", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout[-5000:]
