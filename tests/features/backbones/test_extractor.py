"""The frozen network is Keras' VGG16, pooled as documented, whatever the batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from features import budget
from features.backbones import vgg16 as vgg16_weights
from features.backbones.extractor import PRECISIONS, TOLERANCE, VGG16, parse_layers
from features.errors import UserError

LAYERS = "block1,block3@4,block4@2,block5"


def images(count: int, size: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def maps(weights_path: str, pixels: NDArray[Any], names: list[str]) -> dict[str, NDArray[np.float32]]:
    """The pooling layers' outputs from Keras' own application and preprocessing."""
    import keras

    base = keras.applications.VGG16(weights=weights_path, include_top=False, input_shape=pixels.shape[1:])
    model = keras.Model(base.input, [base.get_layer(f"{name}_pool").output for name in names])
    return dict(zip(names, model.predict(pixels, verbose=0), strict=True))


@pytest.fixture(scope="module")
def networks(weights_path: str) -> dict[str, VGG16]:
    """The network at each precision, built once, where a test asks for it."""
    exact = VGG16(LAYERS, precision="float32", batch=10)
    exact.weights = vgg16_weights.load(weights_path)
    return {precision: exact.at(precision) for precision in PRECISIONS}


@pytest.fixture
def network(networks: dict[str, VGG16]) -> VGG16:
    return networks["float32"]


def test_embeddings_are_keras_pooling_layers_averaged(network: VGG16, weights_path: str) -> None:
    import keras

    batch = images(6)
    found = network.embed(batch)
    pixels = keras.applications.vgg16.preprocess_input(batch.astype(np.float32))
    expected = maps(weights_path, pixels, ["block1", "block3", "block4", "block5"])
    for name in ("block1", "block5"):
        np.testing.assert_allclose(found[name], expected[name].mean((1, 2)), rtol=1e-4, atol=1e-3)
    for name in ("block3@4", "block4@2"):  # at 32 px these grids are the maps themselves
        flat = expected[name.partition("@")[0]].reshape(6, -1)
        np.testing.assert_allclose(found[name], flat, rtol=1e-4, atol=1e-3)


def test_unit_preprocessing_divides_by_255(weights_path: str) -> None:
    batch = images(4)
    found = VGG16("block2", preprocess="unit", precision="float32", weights=weights_path).embed(batch)[
        "block2"
    ]
    expected = maps(weights_path, batch.astype(np.float32) / 255, ["block2", "block3"])["block2"]
    np.testing.assert_allclose(found, expected.mean((1, 2)), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_mirrored_pass_averages_an_image_and_its_mirror_image(network: VGG16, weights_path: str) -> None:
    both = VGG16(LAYERS, precision="float32", mirror=True, weights=weights_path)
    batch = images(5)
    found, turned = both.embed(batch), both.embed(batch[:, :, ::-1].copy())
    one, other = network.embed(batch), network.embed(batch[:, :, ::-1].copy())
    for layer in network.layers:
        np.testing.assert_allclose(found[layer], (one[layer] + other[layer]) / 2, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(found[layer], turned[layer], rtol=1e-4, atol=1e-3)


def test_uneven_grids_are_adaptive_averages(weights_path: str) -> None:
    batch = images(3, size=56)  # block3's map is 7 x 7
    network = VGG16("block3@7,block3@3", image_size=56, precision="float32", weights=weights_path)
    found = network.embed(batch)
    whole = found["block3@7"].reshape(3, 7, 7, 256)
    cells = [(0, 3), (2, 5), (4, 7)]
    expected = np.stack(
        [whole[:, a:b, c:d].mean((1, 2)) for a, b in cells for c, d in cells], axis=1
    ).reshape(3, -1)
    np.testing.assert_allclose(found["block3@3"], expected, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_batch_boundaries_do_not_matter(networks: dict[str, VGG16], precision: str) -> None:
    network = networks[precision]
    batch = images(network.batch + 3)
    whole = network.embed(batch)
    pieces = [network.embed(batch[start : start + 7]) for start in range(0, len(batch), 7)]
    for layer, vectors in whole.items():
        assert vectors.dtype == np.float32
        assert vectors.shape == (len(batch), network.widths[layer])
        again = np.concatenate([piece[layer] for piece in pieces])
        away = np.linalg.norm(vectors - again, axis=1) / np.linalg.norm(vectors, axis=1)
        assert away.max() <= TOLERANCE[precision]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision_points_the_same_way(networks: dict[str, VGG16], precision: str) -> None:
    batch = images(8)
    exact, rough = (networks[name].embed(batch) for name in ("float32", precision))
    for layer in exact:
        lengths = np.linalg.norm(exact[layer], axis=1) * np.linalg.norm(rough[layer], axis=1)
        assert np.all((exact[layer] * rough[layer]).sum(1) / lengths > 0.999)


def test_an_overflow_that_a_relu_swallows_is_noticed(weights_path: str, tmp_path: Path) -> None:
    """Minus infinity is 0 behind it, as minus 70,000 is."""
    tensors = vgg16_weights.read(Path(weights_path))
    tensors["block3_conv1/bias"][0] = -60_000
    tensors["block3_conv1/kernel"][:, :, :, 0] = -1_000
    path = tmp_path / "steep.h5"
    vgg16_weights.save(tensors, path)
    wide, narrow = (
        VGG16("block5", precision=precision, weights=str(path)) for precision in ("bfloat16", "float16")
    )
    assert np.isfinite(wide.embed(images(2))["block5"]).all()
    with pytest.raises(UserError, match=r"beyond the range of float16 .* give precision=float32"):
        narrow.embed(images(2))


def test_vectors_that_are_no_numbers_are_refused_at_any_precision(weights_path: str, tmp_path: Path) -> None:
    """Of weights that are finite each; whoever embeds a picture, ``predict`` too, is told."""
    path = tmp_path / "large.h5"
    tensors = vgg16_weights.read(Path(weights_path))
    for name in ("block5_conv3/kernel", "block5_conv3/bias"):
        tensors[name][:] = 3e38
    vgg16_weights.save(tensors, path)
    network = VGG16("block5", precision="float32", weights=str(path))
    with pytest.raises(UserError, match=r"beyond the range of float32 for these images; give other weights="):
        network.embed(images(2))


def test_input_pixels_are_left_alone(network: VGG16) -> None:
    batch = images(2)
    before = batch.copy()
    network.embed(batch)
    assert np.array_equal(batch, before)


def test_progress_counts_every_image(network: VGG16, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    monkeypatch.setattr(network, "batch", 4)
    network.embed(images(9), counted.append)
    assert counted == [4, 4, 1]


class TestMemory:
    @pytest.mark.parametrize(
        ("asked", "message"),
        [
            (
                {"image_size": 100_000},
                r"the network with image_size=100000 and batch=5 needs at least 2,200\.0 GB of memory "
                r"\(5 images per call, each of 120,000,000,000 bytes of pixels, 320,000,000,000 of block1's "
                r"maps and 2,048 of embeddings\), 10\.0 GB is available; give a smaller image_size=, batch=",
            ),
            ({"batch": 10**9}, r"batch=1000000000 needs at least 47,104\.0 GB"),
            ({"layers": "block1@8000", "image_size": 16_000, "batch": 1}, "16,384,000,000 of embeddings"),
        ],
    )
    def test_what_cannot_fit_is_refused_before_it_is_tried(
        self, asked: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(budget, "available", lambda: 10**10)
        with pytest.raises(UserError, match=message):
            VGG16(**{"layers": "block5", **asked}).prepare()

    def test_the_default_takes_little(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(budget, "available", lambda: 50_000_000)
        VGG16().check_memory()


class TestParameters:
    def test_widths_need_no_network(self) -> None:
        assert VGG16().widths == {"block3": 256, "block4@2": 2048, "block5": 512}

    def test_layers_have_one_order_and_their_shortest_spelling(self) -> None:
        assert parse_layers("block5, block4@1", 32) == ("block4", "block5")
        assert VGG16("block5,block3,block4@2").layers == VGG16().layers == ("block3", "block4@2", "block5")

    def test_layers_are_a_list_or_a_text(self) -> None:
        assert VGG16(layers=["block3", "block5"]).spec() == VGG16(layers="block3,block5").spec()
        assert VGG16(layers=("block4@1",)).layers == ("block4",)

    def test_larger_images_go_in_smaller_batches(self) -> None:
        batches = [VGG16(image_size=size).batch for size in (32, 64, 128, 224, 2000)]
        assert batches == [500, 125, 25, 10, 5]
        assert VGG16(batch=7).batch == 7

    def test_two_views_are_as_many_images(self) -> None:
        assert VGG16(mirror=True).batch == 250

    def test_auto_is_no_precision_of_a_spec(self) -> None:
        assert "precision" not in VGG16().spec()
        assert VGG16().at("bfloat16").spec()["precision"] == "bfloat16"

    def test_the_spec_knows_no_order(self) -> None:
        assert VGG16("block5,block4").spec() == VGG16("block4,block5").spec()

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"image_size": 31}, "image_size=31: expected at least 32 pixels"),
            ({"preprocess": "caffe"}, "preprocess=caffe: expected one of imagenet, unit"),
            ({"precision": "int8"}, "precision=int8: expected one of auto, float32, bfloat16, float16"),
            ({"mirror": 2}, "mirror=2: expected 0 or 1"),
            ({"batch": 0}, "batch=0: expected a positive number"),
            (
                {"layers": "block6"},
                "layers=block6: expected some of block1, block2, block3, block4, block5 of vgg16",
            ),
            ({"layers": "block4@0"}, "layers=block4@0: expected some of"),
            ({"layers": ""}, "layers=: expected some of"),
            ({"layers": "block5@2"}, "layers=block5@2: a 2 x 2 grid, but at 32 px block5 is 1 x 1"),
            ({"layers": ["block4", "block5@2"]}, "or a larger image_size="),
            ({"layers": "block4,block4@1"}, "layers=block4,block4: a layer is named twice"),
        ],
    )
    def test_what_is_not_on_the_list_is_refused(self, wrong: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message) as error:
            VGG16(**wrong)
        assert isinstance(error.value, UserError)
