"""Silent disasters are loud: each is found, and by its own line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from features.verification import _disasters

LINES = {
    "NaN": "every number is finite",
    "infinite": "every number is finite",
    "zero row": "no row is constant",
    "constant row": "no row is constant",
    "dead": "at most 50% of a layer's dimensions are dead",
    "copies": "at most 1% of the rows are doubled",
    "label": "labels are within the classes",
}


class Fake:
    """Healthy embeddings of two layers, until something is done to them."""

    layers = ("block3", "block5")
    class_names = ("cat", "dog")

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.X = {
            f"{split}/{layer}": rng.random((2500, 8), np.float32)
            for split in ("train", "test")
            for layer in self.layers
        }
        self.y = {split: np.arange(2500) % 2 for split in ("train", "test")}

    def labels(self, split: str) -> NDArray[np.int64]:
        return self.y[split]

    def rows_of(self, split: str, layer: str, rows: slice) -> NDArray[np.float32]:
        return self.X[f"{split}/{layer}"][rows]


def found(fake: Any) -> dict[str, str]:
    return {name: problem for name, problem in _disasters(fake, fake) if problem}


def test_healthy_embeddings_pass_every_check() -> None:
    names = [name for name, _ in _disasters(Fake(), Fake())]  # type: ignore[arg-type]
    assert set(names) == set(LINES.values())
    assert found(Fake()) == {}


@pytest.mark.parametrize("disaster", LINES)
def test_each_disaster_fails_its_own_line_and_names_the_place(disaster: str) -> None:
    fake = Fake()
    vectors = fake.X["test/block5"]
    if disaster == "label":
        fake.y["test"][7] = 2
    elif disaster == "dead":
        vectors[:, :5] = 0.25
    elif disaster == "copies":
        vectors[1000:1100] = vectors[:100]
    else:
        row = {"NaN": np.nan, "infinite": np.inf, "zero row": 0.0, "constant row": 3.0}[disaster]
        vectors[1234] = row
    (line,) = found(fake).items()
    assert line[0] == LINES[disaster]
    assert ("test" if disaster == "label" else "test/block5") in line[1]


def test_a_few_copies_are_no_disaster() -> None:
    fake = Fake()
    fake.X["train/block3"][1000:1010] = fake.X["train/block3"][:10]
    assert found(fake) == {}
