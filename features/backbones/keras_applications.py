"""Networks of ``keras.applications`` other than VGG16, with Keras' ImageNet weights and preprocessing.

Their tensors are not pinned. Weights are labelled ``imagenet`` if the file has the hash that Keras publishes
(keras/src/applications of Keras 3.15.1), otherwise ``custom:<digest>``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from features.backbones.base import Backbone, Tap, Tensors, Weights, combined_digest, tensor_digests
from features.download import cache_dir, fetch, keras_dir
from features.errors import UserError
from features.files import file_digest, given_file
from features.hdf5 import open_hdf5, plain_datasets
from features.progress import say

BYTES = 8  # per number, at most: Keras converts float64
HOST = "https://storage.googleapis.com/tensorflow/keras-applications/"


@dataclass(frozen=True, kw_only=True)
class Application(Backbone):
    """A network whose weights are published by Keras as one file.

    Attributes
    ----------
    file : path of the weights without the classifier, relative to ``HOST``.
    hash : MD5 or SHA-256 of the file in Keras' source; None if Keras publishes none. Such a file is not
        downloaded, as it could not be verified, and a given file is labelled ``custom``.
    """

    file: str
    hash: str | None

    def load(self, path: str | None = None) -> Weights:
        if path is not None:
            file = given_file("weights", path, f"weights of {self.name} (.h5)")
            return self._read(file, str(file.resolve()))
        file_name = self.file.rpartition("/")[2]
        then = f"give backbone={self.name} weights=path/to/{file_name}"
        url = HOST + self.file
        if self.hash is None:
            raise UserError(
                f"Keras publishes no hash of {self.name}'s weights, so a download could not be verified; "
                f"fetch {url} by other means, then {then}"
            )
        own, kept = cache_dir() / file_name, keras_dir() / "models" / file_name
        for place in (own, kept):
            if place.is_file() and self._published(place):
                return self._read(place, str(place))
        try:
            fetch(url, own, self.hash, self._algorithm)
        except UserError as error:
            raise UserError(
                f"{self.name}'s weights could not be obtained, neither as {own} nor as {kept} nor from "
                f"{error}; fetch {file_name} by other means, then {then}"
            ) from None
        return self._read(own, "Keras download")

    @property
    def _algorithm(self) -> str:
        return "md5" if len(self.hash or "") == 32 else "sha256"

    def _published(self, path: Path) -> bool:
        return self.hash is not None and file_digest(path, self._algorithm) == self.hash

    def _read(self, path: Path, source: str) -> Weights:
        """The weights in a file, labelled by its hash; Keras checks that they fit the network."""
        model = self.build(self.least)
        try:
            label = "imagenet" if self._published(path) else None
            with open_hdf5(path) as file:
                _refuse_larger(plain_datasets(file, path), BYTES * model.count_params(), path)
            model.load_weights(str(path))
        except UserError:
            raise
        except Exception as error:  # Keras and h5py raise many kinds
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"{path} does not hold the weights of {self.name}: expected a file that "
                f"keras.applications.{self.application}(include_top=False) wrote, got: {reason}"
            ) from None
        tensors = _tensors(model)
        digest = combined_digest(tensor_digests(tensors))
        if label is None:
            label = f"custom:{digest[:12]}"
            if self.hash is not None:
                say(f"note: {path} is not the file that Keras publishes; its weights are labelled {label}")
        return Weights(tensors, label, digest, source)


def _refuse_larger(held: dict[str, h5py.Dataset], most: int, path: Path) -> None:
    """Refuse a dataset larger than the network: Keras would read it before comparing shapes."""
    for at, item in held.items():
        if item.nbytes > most:
            raise UserError(
                f"{path}: expected tensors of {most:,} bytes together, got {at} of shape {item.shape}; give "
                "the weights of this network without its top"
            )


def _tensors(model: Any) -> Tensors:
    """A model's tensors by position and kind, such as ``007 kernel``; layer names differ between builds."""
    values = model.get_weights()
    return {
        f"{place:03d} {variable.name}": value
        for place, (variable, value) in enumerate(zip(model.weights, values, strict=True))
    }


def _halvings(*stages: tuple[str, str, int]) -> dict[str, Tap]:
    """Taps from ``(name, layer, channels)``, with strides 2, 4, 8 and so on."""
    return {name: Tap(layer, 2 << number, channels) for number, (name, layer, channels) in enumerate(stages)}


APPLICATIONS = (
    Application(  # K. Simonyan and A. Zisserman, 2014
        name="vgg19",
        application="VGG19",
        module="vgg19",
        taps=_halvings(
            ("block1", "block1_pool", 64),
            ("block2", "block2_pool", 128),
            ("block3", "block3_pool", 256),
            ("block4", "block4_pool", 512),
            ("block5", "block5_pool", 512),
        ),
        layers="block3,block4@2,block5",
        normalises=False,
        file="vgg19/vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
        hash="253f8cb515780f3b799900260a226db6",
    ),
    Application(  # K. He et al., Deep Residual Learning for Image Recognition, 2015
        name="resnet50",
        application="ResNet50",
        module="resnet50",
        taps=_halvings(
            ("conv1", "conv1_relu", 64),
            ("conv2", "conv2_block3_out", 256),
            ("conv3", "conv3_block4_out", 512),
            ("conv4", "conv4_block6_out", 1024),
            ("conv5", "conv5_block3_out", 2048),
        ),
        layers="conv3,conv4@2,conv5",
        rounds_up=32,
        file="resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        hash="4d473c1dd8becc155b73f8504c6f6626",
    ),
    Application(  # K. He et al., Identity Mappings in Deep Residual Networks, 2016
        name="resnet50v2",
        application="ResNet50V2",
        module="resnet_v2",
        taps={
            "conv1": Tap("conv1_conv", 2, 64),
            "conv2": Tap("conv2_block3_out", 8, 256),  # the last block of a stage has the stride
            "conv3": Tap("conv3_block4_out", 16, 512),
            "conv4": Tap("conv4_block6_out", 32, 1024),
            "conv5": Tap("post_relu", 32, 2048),
        },
        layers="conv2,conv3@2,conv5",
        rounds_up=32,
        file="resnet/resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
        hash="fac2f116257151a9d068a22e544a4917",
    ),
    Application(  # G. Huang et al., Densely Connected Convolutional Networks, 2016
        name="densenet121",
        application="DenseNet121",
        module="densenet",
        taps=_halvings(
            ("conv1", "conv1_relu", 64),
            ("conv2", "conv2_block6_concat", 256),
            ("conv3", "conv3_block12_concat", 512),
            ("conv4", "conv4_block24_concat", 1024),
            ("conv5", "relu", 1024),
        ),
        layers="conv3,conv4@2,conv5",
        rounds_up=4,
        file="densenet/densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
        hash="30ee3e1110167f948a6b9946edeeb738",
    ),
    Application(  # M. Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, 2018
        name="mobilenetv2",
        application="MobileNetV2",
        module="mobilenet_v2",
        taps={
            "stage1": Tap("expanded_conv_project_BN", 2, 16),
            "stage2": Tap("block_2_add", 4, 24),
            "stage3": Tap("block_5_add", 8, 32),
            "stage4": Tap("block_12_add", 16, 96),
            "stage5": Tap("out_relu", 32, 1280),
        },
        layers="stage3@2,stage4@2,stage5",
        rounds_up=32,
        file="mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
        hash=None,
    ),
    Application(  # M. Tan and Q. Le, EfficientNetV2: Smaller Models and Faster Training, 2021
        name="efficientnetv2b0",
        application="EfficientNetV2B0",
        module="efficientnet_v2",
        taps={
            "stage1": Tap("block1a_project_activation", 2, 16),
            "stage2": Tap("block2b_add", 4, 32),
            "stage3": Tap("block3b_add", 8, 48),
            "stage4": Tap("block5e_add", 16, 112),
            "stage5": Tap("top_activation", 32, 1280),
        },
        layers="stage3@2,stage4@2,stage5",
        rounds_up=32,
        preprocesses=True,
        file="efficientnet_v2/efficientnetv2-b0_notop.h5",
        hash="893217f2bb855e2983157299931e43ff",
    ),
    Application(  # Z. Liu et al., A ConvNet for the 2020s, 2022
        name="convnexttiny",
        application="ConvNeXtTiny",
        module="convnext",
        taps={  # the sum at the end of a stage follows its last block's branch and has no fixed name
            "stage1": Tap("convnext_tiny_stage_0_block_2_identity", 4, 96, further=1),
            "stage2": Tap("convnext_tiny_stage_1_block_2_identity", 8, 192, further=1),
            "stage3": Tap("convnext_tiny_stage_2_block_8_identity", 16, 384, further=1),
            "stage4": Tap(None, 32, 768),
        },
        layers="stage2,stage3@2,stage4",
        preprocesses=True,
        file="convnext/convnext_tiny_notop.h5",
        hash="d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
    ),
)
