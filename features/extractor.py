"""The frozen network: uint8 images in, one float32 vector a layer out."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import copy
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features import weights as vgg16_weights
from features.backend import tensorflow
from features.errors import UserError
from features.pictures import RESIZE

CHANNELS = {"block1": 64, "block2": 128, "block3": 256, "block4": 512, "block5": 512}
PREPROCESS = ("imagenet", "unit")
PRECISIONS = ("float32", "bfloat16", "float16")
AUTO = "auto"  # a precision that is measured, and never part of a spec
MIN_SIZE = 32  # px: five halvings leave one cell
BATCHES = (500, 250, 125, 50, 25, 10, 5)  # images a call: each divides a shard
BATCH_PIXELS = 500 * 32**2  # in one call: throughput is flat from about here on, memory is not
# The largest distance between two embeddings of one image, relative to the vector's length: other
# batch boundaries or thread counts add up the same products in another order.
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 5e-3}

_LAYER = re.compile(r"(block[1-5])(?:@([1-9]\d*))?")


class VGG16:
    """VGG16 without its top, as trained on ImageNet, never trained further.

    Parameters
    ----------
    layers : comma-separated, in any order. ``blockN`` is Keras' ``blockN_pool`` averaged to one cell,
        ``blockN@g`` the same averaged to a g x g grid (adaptive average pooling: cell i of g
        covers rows floor(i*m/g) to ceil((i+1)*m/g) of m), flattened as (row, column, channel).
    image_size : side of the square input, pixels.
    preprocess : ``imagenet`` (Keras' ``preprocess_input``: BGR minus the channel means) or
        ``unit`` (divided by 255, which VGG16 was not trained for; the baseline's).
    precision : dtype of the network's arithmetic, or ``auto``: whichever :mod:`features.precision`
        finds faster here. Embeddings are float32 in any case.
    mirror : embed each image and its mirror image, and average the two vectors, for twice the
        arithmetic. An image and its mirror image then have the same vector.
    weights : path of the tensors; left out, ImageNet's are looked for.
    batch : images a call; left out, what keeps the first feature maps within memory.

    Raises
    ------
    UserError
        A parameter is not one of these, or a grid is finer than its layer's map.

    References
    ----------
    K. Simonyan and A. Zisserman, Very Deep Convolutional Networks for Large-Scale Image
    Recognition, 2014.
    """

    def __init__(
        self,
        layers: str = "block3,block4@2,block5",
        image_size: int = 32,
        preprocess: str = "imagenet",
        precision: str = AUTO,
        mirror: bool = False,
        weights: str | None = None,
        batch: int | None = None,
    ) -> None:
        if image_size < MIN_SIZE:
            raise UserError(f"IMAGE_SIZE={image_size}: expected at least {MIN_SIZE} pixels")
        for name, value, known in (
            ("PREPROCESS", preprocess, PREPROCESS),
            ("PRECISION", precision, (AUTO, *PRECISIONS)),
        ):
            if value not in known:
                raise UserError(f"{name}={value}: expected one of {', '.join(known)}")
        self.image_size = image_size
        self.preprocess = preprocess
        self.precision = precision
        if mirror not in (0, 1):
            raise UserError(f"MIRROR={mirror}: expected 0 or 1")
        self.mirror = bool(mirror)
        self.weights_path = weights
        self.layers = parse_layers(layers, image_size)
        if batch is not None and batch < 1:
            raise UserError(f"BATCH={batch}: expected a positive number of images")
        fitting = [size for size in BATCHES if size * (1 + self.mirror) * image_size**2 <= BATCH_PIXELS]
        self.batch = batch or (fitting or [BATCHES[-1]])[0]

    def at(self, precision: str) -> VGG16:
        """The same network at another precision; weights that are loaded are shared."""
        other = copy(self)
        other.__dict__.pop("_network", None)
        other.precision = precision
        return other

    @cached_property
    def weights(self) -> vgg16_weights.Weights:
        """The tensors, read (or fetched) at first use."""
        return vgg16_weights.load(self.weights_path)

    @property
    def widths(self) -> dict[str, int]:
        """Numbers in each layer's vector."""
        return {layer: CHANNELS[block] * grid**2 for layer, (block, grid) in self._cells.items()}

    def spec(self) -> dict[str, Any]:
        """Everything that changes the vectors, as JSON values.

        While the weights are neither given nor loaded yet, they are taken to be ImageNet's, so
        that a finished cache is recognised without them. At precision ``auto`` the spec leaves
        the precision open, and is one to search with, not one to compute with.
        """
        loaded = "weights" in self.__dict__ or self.weights_path is not None
        spec: dict[str, Any] = {
            "backbone": "vgg16",
            "weights": self.weights.label if loaded else "imagenet",
            "weights_sha256": self.weights.digest if loaded else vgg16_weights.IMAGENET_DIGEST,
            "layers": list(self.layers),
            "image_size": self.image_size,
            "resize": RESIZE,
            "preprocess": self.preprocess,
            "mirror": self.mirror,
        }
        return spec if self.precision == AUTO else spec | {"precision": self.precision}

    def embed(
        self, images: NDArray[np.uint8], advance: Callable[[int], object] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """The embeddings of ``(n, size, size, 3)`` uint8 RGB images, ``{layer: (n, d)}`` float32.

        The same images give the same vectors within ``TOLERANCE[precision]``, however they are
        cut into calls. ``advance`` is called with the number of images after each batch.
        """
        tf = tensorflow()
        parts: dict[str, list[NDArray[np.float32]]] = {layer: [] for layer in self.layers}
        for start in range(0, len(images), self.batch):
            outputs = self._network(tf.constant(images[start : start + self.batch]))
            for layer, vectors in zip(self.layers, outputs, strict=True):
                parts[layer].append(vectors.numpy())
            if advance is not None:
                advance(min(self.batch, len(images) - start))
        return {layer: np.concatenate(pieces) for layer, pieces in parts.items()}

    def prepare(self) -> None:
        """Build the network now, and not at the first :meth:`embed`."""
        self.embed(np.zeros((self.batch, self.image_size, self.image_size, 3), np.uint8))

    @property
    def _cells(self) -> dict[str, tuple[str, int]]:
        return {layer: _parse_layer(layer) for layer in self.layers}

    @cached_property
    def _network(self) -> Any:
        """One TensorFlow function of a uint8 batch, with the weights frozen into its graph.

        As constants, oneDNN reorders the filters once and not at every call.
        """
        tf = tensorflow()
        import keras
        from tensorflow.python.framework.convert_to_constants import (
            convert_variables_to_constants_v2,
        )

        shape = (self.image_size, self.image_size, 3)
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.precision)
        try:
            base = keras.applications.VGG16(include_top=False, weights=None, input_shape=shape)
        finally:
            keras.config.set_dtype_policy(policy)
        for name in vgg16_weights.CONVOLUTIONS:
            tensors = self.weights.tensors
            base.get_layer(name).set_weights([tensors[f"{name}/kernel"], tensors[f"{name}/bias"]])
        base.trainable = False
        maps = keras.Model(
            base.inputs, [base.get_layer(f"{block}_pool").output for block, _ in self._cells.values()]
        )
        grids = [grid for _, grid in self._cells.values()]

        def network(images: Any) -> list[Any]:
            views = tf.concat([images, images[:, :, ::-1]], 0) if self.mirror else images
            pixels = tf.cast(views, tf.float32)
            if self.preprocess == "unit":
                pixels = pixels / 255.0
            else:
                pixels = keras.applications.vgg16.preprocess_input(pixels)
            outputs = maps(tf.cast(pixels, self.precision), training=False)
            outputs = outputs if isinstance(outputs, list) else [outputs]
            pooled = [_pool(tf.cast(map_, tf.float32), g) for map_, g in zip(outputs, grids, strict=True)]
            return [sum(tf.split(cells, 2)) / 2 for cells in pooled] if self.mirror else pooled

        signature = [tf.TensorSpec((None, *shape), tf.uint8)]
        traced = tf.function(network, input_signature=signature, autograph=False).get_concrete_function()
        return convert_variables_to_constants_v2(traced)


def parse_layers(layers: str, image_size: int) -> tuple[str, ...]:
    """The layers a comma-separated list names, each in its shortest spelling, by name.

    One order for one set of layers, as the spec has it: ``a,b`` and ``b,a`` are the same embedding.

    Raises
    ------
    UserError
        A layer is unknown, named twice, or asks for a grid finer than its map.
    """
    names = []
    for text in layers.split(","):
        block, grid = _parse_layer(text.strip())
        side = image_size // 2 ** int(block[-1])
        if grid > side:
            raise UserError(
                f"LAYERS: {text.strip()} asks for a {grid} x {grid} grid, but at {image_size} px {block} "
                f"is {side} x {side}; expected @{side} at most, or a larger IMAGE_SIZE"
            )
        names.append(block if grid == 1 else f"{block}@{grid}")
    if len(set(names)) < len(names):
        raise UserError(f"LAYERS={layers}: a layer is named twice")
    return tuple(sorted(names))


def _parse_layer(layer: str) -> tuple[str, int]:
    match = _LAYER.fullmatch(layer)
    if match is None:
        raise UserError(
            f"unknown layer {layer!r}: expected block1 to block5, or with a grid as in block4@2, "
            "separated by commas"
        )
    return match[1], int(match[2] or 1)


def _pool(maps: Any, grid: int) -> Any:
    """Average ``(n, m, m, c)`` maps to ``(n, grid * grid * c)``."""
    tf = tensorflow()
    side, channels = maps.shape[1], maps.shape[3]
    if side % grid == 0:
        cells = tf.nn.avg_pool2d(maps, side // grid, side // grid, "VALID") if side > grid else maps
    else:
        share = np.zeros((grid, side), dtype=np.float32)  # how much of each row a cell averages
        for cell in range(grid):
            first, last = cell * side // grid, -(-(cell + 1) * side // grid)
            share[cell, first:last] = 1 / (last - first)
        cells = tf.einsum("gh,kw,nhwc->ngkc", share, share, maps)
    return tf.reshape(cells, (-1, grid * grid * channels))
