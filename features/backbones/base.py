"""The contract of a frozen network: architecture, readable layers, weights."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.backend import tensorflow
from features.errors import UserError
from features.words import short

Tensors = dict[str, NDArray[np.float32]]

_LAYER = re.compile(r"(\w+)(?:@([1-9]\d{0,8}))?")


@dataclass(frozen=True)
class Tap:
    """A layer whose feature map can be read.

    Attributes
    ----------
    layer : the layer's name in Keras; None: the network's output.
    stride : input pixels per cell of the feature map.
    channels : values per cell.
    further : number of layers to go beyond ``layer``, for layers whose names differ between builds.
    """

    layer: str | None
    stride: int
    channels: int
    further: int = 0


@dataclass(frozen=True)
class Weights:
    """The tensors of a network, with their label, digest and source.

    Tensors with NaN or infinity are refused, because a ReLU or pooling layer can hide them from the vectors.

    Attributes
    ----------
    tensors : float32 arrays by name, in the order of the Keras model's weights.
    label : ``imagenet``, or ``custom:`` and the first twelve digits of ``digest``.
    digest : hex SHA-256 over the tensors' names and digests.
    source : a path, or the name of a download.

    Raises
    ------
    UserError
        A tensor contains NaN or infinity; the message names it.
    """

    tensors: Tensors
    label: str
    digest: str
    source: str

    def __post_init__(self) -> None:
        for name, tensor in self.tensors.items():
            finite = np.isfinite(tensor)
            if not finite.all():
                raise UserError(
                    f"{self.source}: expected finite numbers in every tensor, got {tensor[~finite][0]} in "
                    f"{name}; give other weights="
                )


@dataclass(frozen=True, kw_only=True)
class Backbone(ABC):
    """A network of ``keras.applications`` without its classifier.

    Attributes
    ----------
    name : its name in ``BACKBONES``.
    application : the constructor in ``keras.applications``.
    module : the module of ``keras.applications`` with its ``preprocess_input``.
    taps : the readable layers by name, from input to output.
    layers : the default layers, in the syntax of ``LAYERS``.
    least : smallest side of the input in pixels.
    rounds_up : the part of a stride for which the side of a feature map is rounded up; the rest is rounded
        down. 1 if no strided layer pads its input.
    preprocesses : whether preprocessing consists of layers of the network; ``unit`` omits them.
    normalises : whether it has normalisation layers, whose tensors stay float32 at any precision.
    digest : of the ImageNet tensors, if they are pinned; None if only the weights file is verified.
    """

    name: str
    application: str
    module: str
    taps: Mapping[str, Tap]
    layers: str
    least: int = 32
    rounds_up: int = 1
    preprocesses: bool = False
    normalises: bool = True
    digest: str | None = None

    @abstractmethod
    def load(self, path: str | None = None) -> Weights:
        """The weights at ``path``, or the ImageNet weights from the first available source.

        Raises
        ------
        UserError
            ``path`` has other tensors, or no source could be reached.
        """

    def side(self, tap: str, image_size: int) -> int:
        """The side of a layer's feature map in cells."""
        stride = self.taps[tap].stride
        up = min(stride, self.rounds_up)
        return -(-image_size // up) // (stride // up)

    def parse(self, layer: str) -> tuple[str, int]:
        """Split ``tap`` or ``tap@grid`` into the name of the layer and the side of the grid in cells.

        Raises
        ------
        UserError
            The network has no such layer, or the text is malformed.
        """
        match = _LAYER.fullmatch(layer)
        if match is None or match[1] not in self.taps:
            taps = list(self.taps)
            raise UserError(
                f"layers={short(layer)}: expected some of {', '.join(taps)} of {self.name}, or with a grid "
                f"as in {taps[-2]}@2, separated by commas"
            )
        return match[1], int(match[2] or 1)

    def build(self, image_size: int, preprocess: str = "imagenet", precision: str = "float32") -> Any:
        """Build the Keras model for ``(n, size, size, 3)`` pixels at this precision, with random weights."""
        tensorflow()
        import keras

        included = {"include_preprocessing": preprocess == "imagenet"} if self.preprocesses else {}
        policy = keras.config.dtype_policy()
        mixed = self.normalises and precision != "float32"
        keras.config.set_dtype_policy(f"mixed_{precision}" if mixed else precision)
        try:
            return getattr(keras.applications, self.application)(
                include_top=False, weights=None, input_shape=(image_size, image_size, 3), **included
            )
        finally:
            keras.config.set_dtype_policy(policy)

    def maps(self, model: Any, taps: list[str]) -> list[Any]:
        """The symbolic outputs of a built model at these layers.

        Raises
        ------
        UserError
            A feature map has an unexpected shape, as with another version of Keras than the pinned one.
        """
        image_size = model.input_shape[1]
        found = []
        for name in taps:
            tap, side = self.taps[name], self.side(name, image_size)
            output = model.output
            if tap.layer is not None:
                place = model.operations.index(model.get_layer(tap.layer)) + tap.further
                output = model.operations[place].output
            expected, got = (side, side, tap.channels), tuple(output.shape[1:])
            if got != expected:
                raise UserError(
                    f"{self.name} at {image_size} px: expected a map of {expected} at {name}, got {got}; "
                    "install the Keras that requirements.txt pins"
                )
            found.append(output)
        return found

    def preprocess(self, preprocess: str) -> Callable[[Any], Any]:
        """The function that preprocesses float32 RGB pixels from 0 to 255 for the model."""
        if preprocess == "unit":
            return lambda pixels: pixels / 255.0
        import keras

        function: Callable[[Any], Any] = getattr(keras.applications, self.module).preprocess_input
        return function


def tensor_digests(tensors: Tensors) -> dict[str, str]:
    """Hex SHA-256 of each tensor's bytes (C order), by name."""
    return {name: hashlib.sha256(tensor.tobytes()).hexdigest() for name, tensor in tensors.items()}


def combined_digest(digests: dict[str, str]) -> str:
    """Hex SHA-256 over named digests, independent of their order."""
    lines = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()
