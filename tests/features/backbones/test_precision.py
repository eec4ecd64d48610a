"""``auto`` takes the faster arithmetic, if it says the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from features.backbones import precision
from features.backbones.extractor import VGG16
from features.backbones.precision import choose
from features.errors import UserError

pytestmark = pytest.mark.slow

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)


class Network:
    """Stands in for VGG16: a speed and an error for each precision."""

    batch = 8

    def __init__(self, error: float = 0.0) -> None:
        self.error, self.precision = error, "auto"

    def at(self, name: str) -> Network:
        other = Network(self.error)
        other.precision = name
        return other

    def embed(self, images: Any) -> dict[str, Any]:
        vectors = images[:, 0, :, 0].astype(np.float32) + 1
        if self.precision != "float32":
            vectors[3] += self.error * np.random.default_rng(1).normal(0, 100, vectors.shape[1])
        return {"block5": vectors}


def decide(
    monkeypatch: pytest.MonkeyPatch, convolution: float, network: float, error: float = 0.0
) -> tuple[str, str]:
    """Choose when bfloat16 convolves and embeds this many times as fast as float32."""
    monkeypatch.setattr(
        precision, "_convolution_seconds", lambda _, name: 1.0 if name == "float32" else 1 / convolution
    )
    monkeypatch.setattr(
        precision, "_images_per_second", lambda it, _: 100 if it.precision == "float32" else 100 * network
    )
    chosen, reason = choose(Network(error), IMAGES)  # type: ignore[arg-type]
    return chosen.precision, reason


def test_the_faster_is_taken_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, reason = decide(monkeypatch, convolution=3, network=2)
    assert chosen == "bfloat16"
    assert "200 img/s against 100 in float32" in reason


def test_networks_decide_where_a_convolution_is_no_faster_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, _ = decide(monkeypatch, convolution=0.9, network=2)
    assert chosen == "bfloat16"


def test_a_slow_convolution_ends_it_before_a_network_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_agreement", lambda *_: pytest.fail("a network was built"))
    chosen, reason = decide(monkeypatch, convolution=0.01, network=2)
    assert chosen == "float32"
    assert "bfloat16 convolves at 0.01 of float32's speed" in reason


def test_a_processor_that_cannot_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from features.backend import tensorflow

    def convolve(_: object, name: str) -> float:
        if name == "float32":
            return 1.0
        raise tensorflow().errors.UnimplementedError(None, None, "no such kernel")

    monkeypatch.setattr(precision, "_convolution_seconds", convolve)
    chosen, reason = choose(Network(), IMAGES)  # type: ignore[arg-type]
    assert chosen.precision == "float32"
    assert "bfloat16 does not run on this processor" in reason


def test_a_network_that_gains_nothing_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, reason = decide(monkeypatch, convolution=3, network=1.05)
    assert chosen == "float32"
    assert "not faster" in reason


@pytest.mark.parametrize("error", [0.5, np.nan, np.inf])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_one_row_that_disagrees_is_enough(monkeypatch: pytest.MonkeyPatch, error: float) -> None:
    chosen, reason = decide(monkeypatch, convolution=3, network=2, error=error)
    assert chosen == "float32"
    assert "disagrees" in reason


def test_numbers_beyond_the_range_of_a_precision_are_a_disagreement(monkeypatch: pytest.MonkeyPatch) -> None:
    embed = Network.embed

    def overflow(self: Network, images: Any) -> dict[str, Any]:
        if self.precision != "float32":
            raise UserError(f"the network gives numbers beyond the range of {self.precision}")
        return embed(self, images)

    monkeypatch.setattr(Network, "embed", overflow)
    chosen, reason = decide(monkeypatch, convolution=3, network=2)
    assert chosen == "float32"
    assert "bfloat16 disagrees with float32 (cosine nan)" in reason


def test_the_real_network_decides_and_embeds(weights_path: str) -> None:
    chosen, reason = choose(VGG16("block5", weights=weights_path), IMAGES)
    assert chosen.precision in ("float32", "bfloat16")
    assert reason.startswith(chosen.precision)
    assert chosen.embed(IMAGES)["block5"].shape == (8, 512)
