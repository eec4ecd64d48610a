"""A covariance is summed by panels and solved in its own place."""

from __future__ import annotations

import numpy as np
import pytest

from models.heads import covariance
from models.heads.covariance import Covariance


@pytest.fixture(params=[(3_072, 512), (7, 3)])
def _tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is, and in panels and tiles that do not divide the width."""
    monkeypatch.setattr(covariance, "PANEL", request.param[0])
    monkeypatch.setattr(covariance, "TILE", request.param[1])


@pytest.mark.usefixtures("_tiles")
def test_it_solves_what_numpy_solves_again_and_again() -> None:
    rng = np.random.default_rng(0)
    rows, right = rng.normal(size=(2, 40, 20)).astype(np.float32), rng.normal(size=(20, 3))
    low = rng.normal(size=(20, 2))
    matrix = Covariance(20)
    for block in rows:
        matrix.add(block)
    matrix.subtract(low / 10)
    every = np.concatenate(rows).astype(np.float64)
    expected = every.T @ every - low @ low.T / 100
    np.testing.assert_allclose(matrix.diagonal, expected.diagonal(), rtol=1e-5)
    for factor, added in ((1, 3.0), (0.5, 1e-3), (0, 2.0), (1, 3.0)):
        found = matrix.solve(factor, added, right, 0)
        np.testing.assert_allclose(
            found, np.linalg.solve(factor * expected + added * np.eye(20), right), atol=1e-6
        )


@pytest.mark.usefixtures("_tiles")
def test_what_rounding_has_made_indefinite_is_raised() -> None:
    matrix = Covariance(20)
    matrix.add(np.ones((5, 20), np.float32))
    matrix.subtract(np.full((20, 1), 2.3))
    assert np.isfinite(matrix.solve(1, 1e-9, np.ones((20, 1)), 100)).all()


def test_it_states_its_bytes() -> None:
    size, words = Covariance.memory(14_336)
    assert size == 8 * 14_336**2 + 4 * 14_336 * 3_072
    assert words == "8 x 14,336 x 14,336 bytes of covariance + 4 x 14,336 x 3,072 of products"
