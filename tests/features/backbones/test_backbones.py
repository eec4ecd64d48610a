"""The contract of every network: what its entry says is what Keras builds, tap by tap."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from features.backbones import keras_applications
from features.backbones import precision as precision_module
from features.backbones.base import Backbone, Weights
from features.backbones.extractor import TOLERANCE, Extractor, parse_layers
from features.backbones.registry import BACKBONES, DEFAULT, having
from features.errors import UserError
from features.files import file_digest

SIZE, ODD = 64, 47
QUICK = ("mobilenetv2", "vgg16")  # the others take seconds to build
HALVED = ("mobilenetv2", "efficientnetv2b0", "vgg16")  # networks that bfloat16 is tried on


def some(*names: str) -> list[Any]:
    """Networks as parameters; those that take long are slow."""
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


BUILT = some(*BACKBONES)


def convolves(precision: str) -> bool:
    """Whether a convolution runs here at a bearable speed."""
    from features.backend import tensorflow

    tf = tensorflow()
    try:
        rough = precision_module._convolution_seconds(tf, precision)
    except tf.errors.OpError:
        return False
    return precision_module._convolution_seconds(tf, "float32") / rough >= precision_module.HOPELESS


class Built:
    """A network as Keras itself makes it, with random weights that a file holds; and as Headroom makes it.

    Each network is built as seldom as can be, as that takes seconds.
    """

    def __init__(self, entry: Backbone, model: Any, path: str) -> None:
        self.entry, self.model, self.path = entry, model, path

    @cached_property
    def weights(self) -> Weights:
        return self.entry.load(self.path)

    @cached_property
    def network(self) -> Extractor:
        """Every tap in one cell, and where its map has four in 2 x 2."""
        grids = [f"{tap}@2" for tap in self.entry.taps if self.entry.side(tap, SIZE) > 1]
        return self.extractor([*self.entry.taps, *grids])

    def extractor(self, layers: list[str], image_size: int = SIZE, preprocess: str = "imagenet") -> Extractor:
        made = Extractor(layers, image_size, preprocess, "float32", backbone=self.entry.name)
        made.weights = self.weights
        return made


def images(count: int, size: int = SIZE) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=BUILT)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    from features.backend import tensorflow

    tensorflow()
    import keras

    keras.utils.set_random_seed(3)
    entry = BACKBONES[request.param]
    model = getattr(keras.applications, entry.application)(
        include_top=False, weights=None, input_shape=(SIZE, SIZE, 3)
    )
    rng = np.random.default_rng(5)
    for variable in model.weights:  # statistics and scales of which none is the same as its neighbour
        if variable.ndim == 1:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    path = tmp_path_factory.mktemp(entry.name) / f"{entry.name}.weights.h5"
    model.save_weights(path)
    return Built(entry, model, str(path))


def map_at(built: Built, tap: str) -> Any:
    """The symbolic map at a tap, looked up without the entry's own code."""
    named = built.entry.taps[tap].layer
    if named is None:
        return built.model.output
    if built.entry.name == "convnexttiny":  # a stage's end is what the next stage is given
        behind = built.model.get_layer(f"convnext_tiny_downsampling_block_{int(tap[-1]) - 1}")
        return behind._inbound_nodes[-1].input_tensors[0]
    return built.model.get_layer(named).output


def test_each_tap_is_keras_map_averaged(built: Built) -> None:
    import keras

    entry, network, batch = built.entry, built.network, images(3)
    found = network.embed(batch)
    preprocess = getattr(keras.applications, entry.module).preprocess_input
    model = keras.Model(built.model.inputs, [map_at(built, tap) for tap in entry.taps])
    maps = model.predict(preprocess(batch.astype(np.float32)), verbose=0)
    assert set(found) == set(network.layers) == set(network.widths)
    for tap, expected in zip(entry.taps, maps, strict=True):
        side = expected.shape[1]
        assert expected.shape[1:] == (SIZE // entry.taps[tap].stride,) * 2 + (entry.taps[tap].channels,)
        for layer, grid in ((tap, 1), (f"{tap}@2", 2)):
            if layer in found:
                cells = expected.reshape(3, grid, side // grid, grid, side // grid, -1).mean((2, 4))
                scale = np.abs(cells).max()
                assert scale > 0
                np.testing.assert_allclose(found[layer], cells.reshape(3, -1), rtol=1e-3, atol=1e-4 * scale)
                assert found[layer].shape[1] == network.widths[layer]


def test_batches_do_not_matter_and_the_spec_says_which_network(built: Built) -> None:
    network, batch = built.network, images(5)
    whole = network.embed(batch)
    pieces = [network.embed(batch[start : start + 2]) for start in (0, 2, 4)]
    for layer, vectors in whole.items():
        again = np.concatenate([piece[layer] for piece in pieces])
        away = np.linalg.norm(vectors - again, axis=1) / np.linalg.norm(vectors, axis=1)
        assert away.max() <= TOLERANCE["float32"]
    spec = network.spec()
    assert spec["backbone"] == built.entry.name
    assert spec["weights"] == f"custom:{spec['weights_sha256'][:12]}"


@pytest.mark.parametrize("built", some(*HALVED), indirect=True)
def test_bfloat16_points_the_same_way(built: Built) -> None:
    exact, batch = built.network, images(8)
    if not convolves("bfloat16"):
        pytest.skip("this processor has no bfloat16")
    rough = exact.at("bfloat16").embed(batch)
    for layer, vectors in exact.embed(batch).items():
        lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(rough[layer], axis=1)
        cosines = (vectors * rough[layer]).sum(1) / lengths
        # `auto` asks for 0.999 of each image. Weights are random here, and processors round differently: of
        # one image in eight 0.96 was seen, so the mean is what is held.
        assert np.mean(cosines) > 0.97


@pytest.fixture(scope="module")
def odd(built: Built) -> Any:
    """The model that the entry builds for images of an odd size and pixels over 255."""
    return built.entry.build(ODD, "unit")


def test_unit_is_pixels_over_255_and_nothing_else(built: Built, odd: Any) -> None:
    import keras

    entry, batch = built.entry, images(2, ODD)
    first = next(iter(entry.taps))
    network = built.extractor([first], ODD, "unit")
    odd.set_weights(list(network.weights.tensors.values()))
    assert not any(type(layer).__name__ in ("Rescaling", "Normalization") for layer in odd.layers)
    maps = keras.Model(odd.inputs, entry.maps(odd, [first])[0])
    expected = maps.predict(batch.astype(np.float32) / 255, verbose=0).mean((1, 2))
    np.testing.assert_allclose(network.embed(batch)[first], expected, rtol=1e-3, atol=1e-4)


def test_an_odd_size_rounds_as_keras_rounds(built: Built, odd: Any) -> None:
    built.entry.maps(odd, list(built.entry.taps))  # raises where they differ


@pytest.mark.parametrize("size", [32, 33, 50, 63])
@pytest.mark.parametrize("name", QUICK)
def test_odd_sizes_round_as_keras_rounds(name: str, size: int) -> None:
    entry = BACKBONES[name]
    entry.maps(entry.build(size), list(entry.taps))  # raises where they differ


@pytest.mark.parametrize("name", BACKBONES)
class TestEntries:
    def test_the_default_layers_fit_the_least_size(self, name: str) -> None:
        entry = BACKBONES[name]
        network = Extractor(image_size=entry.least, backbone=name)
        assert set(network.widths) == set(entry.layers.split(","))
        with pytest.raises(UserError, match=f"expected at least {entry.least} pixels"):
            Extractor(image_size=entry.least - 1, backbone=name)

    def test_what_is_no_tap_is_refused_with_those_that_are(self, name: str) -> None:
        with pytest.raises(UserError) as error:
            Extractor("top", backbone=name)
        assert all(tap in str(error.value) for tap in BACKBONES[name].taps)
        assert "\n" not in str(error.value)

    def test_a_grid_finer_than_its_map_is_refused(self, name: str) -> None:
        last = list(BACKBONES[name].taps)[-1]
        with pytest.raises(UserError, match=f"at 32 px {last} is 1 x 1"):
            Extractor(f"{last}@2", backbone=name)

    def test_no_weights_and_no_network_is_one_line_with_what_to_do(self, name: str) -> None:
        with pytest.raises(UserError) as error:
            BACKBONES[name].load()
        assert "\n" not in str(error.value)
        assert "weights=path/to/" in str(error.value).rpartition(f"give backbone={name}")[2]

    def test_its_hash_is_the_one_in_keras_source(self, name: str) -> None:
        from features.backend import tensorflow

        tensorflow()
        import keras.src.applications as source

        entry = BACKBONES[name]
        if not isinstance(entry, keras_applications.Application) or entry.hash is None:
            return
        module = entry.module.replace("resnet50", "resnet").replace("resnet_v2", "resnet")
        assert entry.hash in (Path(source.__file__).parent / f"{module}.py").read_text()


def test_without_weights_the_spec_leaves_an_unpinned_digest_open() -> None:
    assert BACKBONES[DEFAULT].digest == Extractor().spec()["weights_sha256"]
    spec = Extractor(backbone="resnet50").spec()
    assert spec["weights"] == "imagenet"
    assert "weights_sha256" not in spec


@pytest.mark.parametrize("built", ["mobilenetv2"], indirect=True)
def test_the_published_file_is_imagenet(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    published = file_digest(Path(built.path), "md5")
    monkeypatch.setattr(keras_applications.Application, "_algorithm", "md5")
    object.__setattr__(built.entry, "hash", published)
    try:
        weights = built.entry.load(built.path)
    finally:
        object.__setattr__(built.entry, "hash", None)
    assert weights.label == "imagenet"
    assert weights.digest == built.entry.load(built.path).digest


@pytest.mark.parametrize("built", ["mobilenetv2"], indirect=True)
def test_a_number_that_is_none_is_refused_by_its_tensor(built: Built, tmp_path: Path) -> None:
    values = built.model.get_weights()
    path = tmp_path / "bad.weights.h5"
    try:
        built.model.set_weights([*values[:-1], np.full_like(values[-1], np.inf)])
        built.model.save_weights(path)
    finally:
        built.model.set_weights(values)
    with pytest.raises(UserError, match=r"expected finite numbers .* got inf in \d+ moving_variance"):
        built.entry.load(str(path))


def test_another_networks_weights_are_refused_in_one_line(weights_path: str, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.weights.h5"
    damaged.write_bytes(b"no HDF5")
    for path in (weights_path, str(damaged)):
        with pytest.raises(UserError, match="does not hold the weights of mobilenetv2") as error:
            BACKBONES["mobilenetv2"].load(path)
        assert "\n" not in str(error.value)


def test_a_network_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(UserError, match="backbone=alexnet: expected one of vgg16, vgg19"):
        Extractor(backbone="alexnet")


def test_layers_tell_a_network_that_has_them_all() -> None:
    assert having("block5@1, block4@9").name == DEFAULT
    assert set(having("stage5,stage1@16").taps) >= {"stage1", "stage5"}
    assert parse_layers("stage5,stage1@16", 2**20, having("stage5,stage1@16")) == ("stage1@16", "stage5")
    with pytest.raises(UserError, match="layers=block9: expected some of"):
        parse_layers("block9", 2**20, having("block9"))
