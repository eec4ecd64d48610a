"""Coordinates are one linear map, forth and back, whatever the memory leaves of them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from models.heads.preconditioner import Curvature, FullCurvature, LowRankCurvature

WIDTH = 40


def standardised(rows: int, rank: int = 5) -> NDArray[np.float32]:
    """Columns of variance 1 that are correlated."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, WIDTH)) + rng.normal(size=(rows, WIDTH))
    return ((X - X.mean(axis=0)) / X.std(axis=0)).astype(np.float32)


@pytest.mark.parametrize(
    "curvature",
    [
        FullCurvature(standardised(200), 0.1),
        *(LowRankCurvature(standardised(200)[:rows], 0.1) for rows in (0, 1, 9, 30)),
    ],
    ids=["full", "diagonal", "one row", "9 rows", "30 rows"],
)
@pytest.mark.parametrize("exact", [False, True])
def test_a_slope_is_that_of_the_map_outward(curvature: Curvature, exact: bool) -> None:
    coordinates = curvature.at(1e-3).in_float64() if exact else curvature.at(1e-3)
    rng = np.random.default_rng(1)
    moved, gradient = rng.normal(size=(2, WIDTH, 3))
    forth, back = coordinates.outward(moved), coordinates.slope(gradient)
    assert forth.dtype == back.dtype == np.float64
    np.testing.assert_allclose((forth * gradient).sum(), (moved * back).sum(), rtol=1e-12 if exact else 1e-4)
    np.testing.assert_allclose(coordinates.inward(forth), moved, atol=1e-3)


@pytest.mark.parametrize("penalty", [1e-4, 1e-3])
def test_low_rank_rounds_the_problem_nearly_as_well_as_the_matrix(penalty: float) -> None:
    """By the spread of the eigenvalues of the Hessian in the coordinates, which decides the iterations."""
    X = standardised(2_000)
    hessian = 0.1 * X.T @ X / len(X) + penalty * np.eye(WIDTH)

    def spread(curvature: Curvature | None) -> float:
        outward = np.eye(WIDTH) if curvature is None else curvature.at(penalty).outward(np.eye(WIDTH))
        return float(np.linalg.cond(outward.T @ hessian @ outward))

    full, low, none = FullCurvature(X, 0.1), LowRankCurvature(X[::80], 0.1), None
    assert spread(full) < 1.01
    assert spread(low) < spread(none) / 4


def test_a_sample_takes_what_it_may() -> None:
    for width, memory in ((14_336, 500_000_000), (512, 1_000_000), (50, 100)):
        rows = LowRankCurvature.rows(width, memory)
        assert 8 * width * rows <= memory
        assert 24 * rows**2 <= memory
