"""What a frozen network is: how Keras builds it, where it is tapped, and whose weights it has."""

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
    """Where a network's maps can be read.

    Attributes
    ----------
    layer : Keras' name of the layer; None for the network's output.
    stride : pixels of the input to one cell of the map.
    channels : numbers in each cell.
    further : so many layers behind that one, where Keras gives the layer itself another name each time.
    """

    layer: str | None
    stride: int
    channels: int
    further: int = 0


@dataclass(frozen=True)
class Weights:
    """All tensors of a network, what to call them, and where they were found.

    A tensor that holds NaN or infinity is refused: a ReLU or a pooling may swallow what the network makes of
    it, so that no vector tells.

    Attributes
    ----------
    tensors : float32 arrays by name, in the order in which Keras' model holds them.
    label : ``imagenet``, or ``custom:`` and twelve digits of the digest.
    digest : SHA-256 over the tensors' own digests and their names.
    source : a path, or the name of a download.

    Raises
    ------
    UserError
        A number in a tensor is not finite; the tensor is named.
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
    """One network of ``keras.applications``, without its top.

    Attributes
    ----------
    name : as ``BACKBONE`` says it.
    application : the constructor in ``keras.applications``.
    module : the module there that holds its ``preprocess_input``.
    taps : by name, in the order in which an image meets them.
    layers : those that are embedded if nobody says otherwise, as ``LAYERS`` says them.
    least : the smallest side of the input, pixels.
    rounds_up : how much of a stride rounds a map's side up; what goes beyond rounds down. 1 where
        no layer pads before it skips.
    preprocesses : whether its preprocessing is part of the network, as layers; ``unit`` leaves them out.
    normalises : whether layers of it divide by variances, whose tensors then stay float32 at any precision.
    digest : of the ImageNet tensors, where they are pinned; None where only a file is proved.
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
        """The weights at ``path``, or ImageNet's from the first source that has them.

        Raises
        ------
        UserError
            ``path`` holds other tensors, or no source could be reached; says what to do.
        """

    def side(self, tap: str, image_size: int) -> int:
        """Cells of a tap's map along one side."""
        stride = self.taps[tap].stride
        up = min(stride, self.rounds_up)
        return -(-image_size // up) // (stride // up)

    def parse(self, layer: str) -> tuple[str, int]:
        """The tap and the grid that ``tap`` or ``tap@grid`` names.

        Raises
        ------
        UserError
            The network has no such tap.
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
        """The Keras model for ``(n, size, size, 3)`` pixels at this precision, with random weights."""
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
        """What the built model gives at these taps, symbolically.

        Raises
        ------
        UserError
            A map is not as the taps say it: another Keras than the pinned one built it.
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
        """What is done to float32 RGB pixels from 0 to 255 before the model sees them."""
        if preprocess == "unit":
            return lambda pixels: pixels / 255.0
        import keras

        function: Callable[[Any], Any] = getattr(keras.applications, self.module).preprocess_input
        return function


def tensor_digests(tensors: Tensors) -> dict[str, str]:
    """SHA-256 of each tensor's bytes (C order), by name."""
    return {name: hashlib.sha256(tensor.tobytes()).hexdigest() for name, tensor in tensors.items()}


def combined_digest(digests: dict[str, str]) -> str:
    """One SHA-256 for a set of named digests, whatever their order."""
    lines = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()
