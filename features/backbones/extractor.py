"""The feature extractor: uint8 images in, one float32 vector per layer out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.backbones.base import Backbone, Weights
from features.backbones.registry import DEFAULT
from features.backbones.registry import backbone as known
from features.backend import tensorflow
from features.budget import require
from features.datasets.images import RESIZE
from features.errors import UserError

PREPROCESS = ("imagenet", "unit")
PRECISIONS = ("float32", "bfloat16", "float16")
STORES = ("float32", "float16")  # dtypes of stored vectors; a spec omits the first
AUTO = "auto"  # a precision that is resolved by measurement, never part of a spec
BATCHES = (500, 250, 125, 50, 25, 10, 5)  # images per call; each divides the size of a shard
BATCH_PIXELS = 500 * 32**2  # per call: more increases memory, but hardly throughput
# Largest distance between two embeddings of one image, relative to the vector's length: other batch
# boundaries or thread counts change the order of summation.
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 5e-3}


class Extractor:
    """A frozen network without its classifier.

    Parameters
    ----------
    layers : names in a list or separated by commas, in any order; None: the network's default. ``name`` is
        the feature map of that layer averaged over all cells; ``name@g`` is the map averaged to a g x g grid
        (adaptive average pooling: cell i of g covers rows floor(i*m/g) to ceil((i+1)*m/g) of m), flattened
        as (row, column, channel).
    image_size : side of the square input in pixels.
    preprocess : ``imagenet`` (Keras' ``preprocess_input`` of this network, or its preprocessing layers) or
        ``unit`` (pixels divided by 255).
    precision : dtype of the network's arithmetic, or ``auto``: the faster one on this machine, as measured
        by :mod:`features.backbones.precision`. Embeddings are always float32.
    mirror : average the vectors of each image and its mirror image, at twice the cost.
    weights : path of the weights; None: the ImageNet weights.
    batch : images per call; None: chosen by ``image_size`` to limit memory.
    backbone : name of the network in ``BACKBONES``.
    store : dtype of the vectors in a cache. :meth:`embed` and caches return float32 in any case.

    Raises
    ------
    UserError
        A parameter has an invalid value, or a grid is finer than the layer's feature map.

    Examples
    --------
    >>> from features import VGG16
    >>> VGG16(layers=["block4@2", "block5"], image_size=64).widths
    {'block4@2': 2048, 'block5': 512}
    >>> VGG16(image_size=16)
    Traceback (most recent call last):
        ...
    features.errors.UserError: image_size=16: expected at least 32 pixels
    """

    def __init__(
        self,
        layers: str | Sequence[str] | None = None,
        image_size: int = 32,
        preprocess: str = "imagenet",
        precision: str = AUTO,
        mirror: bool = False,
        weights: str | None = None,
        batch: int | None = None,
        backbone: str = DEFAULT,
        store: str = STORES[0],
    ) -> None:
        self.backbone = known(backbone)
        if image_size < self.backbone.least:
            raise UserError(f"image_size={image_size}: expected at least {self.backbone.least} pixels")
        for name, value, choice in (
            ("preprocess", preprocess, PREPROCESS),
            ("precision", precision, (AUTO, *PRECISIONS)),
            ("store", store, STORES),
        ):
            if value not in choice:
                raise UserError(f"{name}={value}: expected one of {', '.join(choice)}")
        self.image_size = image_size
        self.preprocess = preprocess
        self.precision = precision
        self.store = store
        if mirror not in (0, 1):
            raise UserError(f"mirror={mirror}: expected 0 or 1")
        self.mirror = bool(mirror)
        self.weights_path = weights
        self.layers = parse_layers(
            self.backbone.layers if layers is None else layers, image_size, self.backbone
        )
        if batch is not None and batch < 1:
            raise UserError(f"batch={batch}: expected a positive number of images")
        fitting = [size for size in BATCHES if size * (1 + self.mirror) * image_size**2 <= BATCH_PIXELS]
        self.batch = batch or (fitting or [BATCHES[-1]])[0]

    @classmethod
    def of_spec(
        cls,
        spec: Mapping[str, Any],
        layers: Sequence[str],
        weights: str | None = None,
        batch: int | None = None,
    ) -> Extractor:
        """The network that a :meth:`spec` describes, with these layers and, if given, other weights."""
        return cls(
            layers,
            spec["image_size"],
            spec["preprocess"],
            spec["precision"],
            spec["mirror"],
            weights,
            batch,
            spec["backbone"],
            store_of(spec),
        )

    def at(self, precision: str) -> Extractor:
        """The same network at another precision; loaded weights are shared."""
        other = copy(self)
        other.__dict__.pop("_network", None)
        other.precision = precision
        return other

    @cached_property
    def weights(self) -> Weights:
        """The weights, read or downloaded on first use."""
        return self.backbone.load(self.weights_path)

    @property
    def widths(self) -> dict[str, int]:
        """The number of values in each layer's vector."""
        taps = self.backbone.taps
        return {layer: taps[tap].channels * grid**2 for layer, (tap, grid) in self._cells.items()}

    def spec(self) -> dict[str, Any]:
        """Everything that determines the vectors, as JSON values.

        Until weights are given or loaded, the spec assumes the ImageNet weights, so that a finished cache is
        found without reading them; it omits their digest if none is pinned, and the precision if it is
        ``auto``. Such an incomplete spec serves to search for a cache.

        Returns
        -------
        dict
            ``backbone``, ``weights``, ``layers``, ``image_size`` and so on.

        Raises
        ------
        UserError
            The weights that were given cannot be read.

        Examples
        --------
        >>> from features import VGG16
        >>> spec = VGG16(layers="block5,block4", precision="float32").spec()
        >>> spec["backbone"], spec["layers"], spec["precision"]
        ('vgg16', ['block4', 'block5'], 'float32')
        """
        loaded = "weights" in self.__dict__ or self.weights_path is not None
        spec: dict[str, Any] = {
            "backbone": self.backbone.name,
            "weights": self.weights.label if loaded else "imagenet",
            "weights_sha256": self.weights.digest if loaded else self.backbone.digest,
            "layers": list(self.layers),
            "image_size": self.image_size,
            "resize": RESIZE,
            "preprocess": self.preprocess,
            "mirror": self.mirror,
            "precision": self.precision,
        }
        if self.store != STORES[0]:
            spec["store"] = self.store
        if self.precision == AUTO:
            del spec["precision"]
        if spec["weights_sha256"] is None:
            del spec["weights_sha256"]
        return spec

    def embed(
        self, images: NDArray[np.uint8], advance: Callable[[int], object] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Compute the embeddings of images.

        The vectors of an image agree within ``TOLERANCE[precision]``, however images are batched.

        Parameters
        ----------
        images : (n, image_size, image_size, 3) uint8 RGB.
        advance : called after each batch with its number of images.

        Returns
        -------
        dict
            (n, d) float32 for each layer.

        Raises
        ------
        UserError
            The images have another shape or dtype, the weights cannot be obtained, or the network produces
            numbers beyond the range of its precision.

        Examples
        --------
        >>> from features import VGG16, open_dataset
        >>> network = VGG16(layers="block5", image_size=32)
        >>> network.embed(open_dataset("digits").images("test", 0, 3, 32))["block5"].shape
        (3, 512)
        """
        expected = (self.image_size, self.image_size, 3)
        if images.dtype != np.uint8 or images.shape[1:] != expected:
            raise UserError(
                f"images: expected uint8 of shape (n, {', '.join(map(str, expected))}), got {images.dtype} "
                f"of shape {images.shape}; use Dataset.images"
            )
        tf = tensorflow()
        parts: dict[str, list[NDArray[np.float32]]] = {layer: [] for layer in self.layers}
        for start in range(0, len(images), self.batch):
            *outputs, finite = self._network(tf.constant(images[start : start + self.batch]))
            if not finite:
                raise UserError(
                    f"the network produces numbers beyond the range of {self.precision} for these images; "
                    f"give {'precision=float32 or ' * (self.precision != 'float32')}other weights="
                )
            for layer, vectors in zip(self.layers, outputs, strict=True):
                parts[layer].append(vectors.numpy())
            if advance is not None:
                advance(min(self.batch, len(images) - start))
        return {layer: np.concatenate(pieces) for layer, pieces in parts.items()}

    def check_memory(self) -> None:
        """Refuse a batch that cannot fit into memory.

        The lower bound is the sum of float32 pixels, the first layer's feature maps, and the vectors.

        Raises
        ------
        UserError
            The batch does not fit.
        """
        first = next(iter(self.backbone.taps))
        views = self.batch * (1 + self.mirror)
        pixels = 4 * 3 * self.image_size**2
        bytes_ = 4 if self.precision == "float32" else 2
        maps = bytes_ * self.backbone.taps[first].channels * self.backbone.side(first, self.image_size) ** 2
        vectors = 4 * sum(self.widths.values())
        require(
            views * (pixels + maps + vectors),
            f"{views:,} images per call, each of {pixels:,} bytes of pixels, {maps:,} of {first}'s maps and "
            f"{vectors:,} of embeddings",
            f"the network with image_size={self.image_size} and batch={self.batch}",
            "give a smaller image_size=, batch= or grid in layers=",
        )

    def prepare(self) -> None:
        """Build the network, which otherwise happens at the first :meth:`embed`.

        Raises
        ------
        UserError
            As :meth:`check_memory` and :meth:`embed`.
        """
        self.check_memory()
        self.embed(np.zeros((self.batch, self.image_size, self.image_size, 3), np.uint8))

    @property
    def _cells(self) -> dict[str, tuple[str, int]]:
        return {layer: self.backbone.parse(layer) for layer in self.layers}

    @cached_property
    def _network(self) -> Any:
        """The network as a TensorFlow function of a uint8 batch, with the weights as constants of its graph.

        oneDNN reorders constant filters once instead of at each call. The last output tells whether all
        numbers are finite: the vectors and, at float16 (at most 65,504), the output of every operation, since
        a ReLU or pooling layer can hide an overflow. The other precisions reach 3.4e38.
        """
        tf = tensorflow()
        import keras
        from tensorflow.python.framework.convert_to_constants import (
            convert_variables_to_constants_v2,
        )

        base = self.backbone.build(self.image_size, self.preprocess, self.precision)
        base.set_weights(list(self.weights.tensors.values()))
        base.trainable = False
        maps = keras.Model(base.inputs, self.backbone.maps(base, [tap for tap, _ in self._cells.values()]))
        preprocess = self.backbone.preprocess(self.preprocess)
        grids = [grid for _, grid in self._cells.values()]

        def network(images: Any) -> list[Any]:
            views = tf.concat([images, images[:, :, ::-1]], 0) if self.mirror else images
            pixels = preprocess(tf.cast(views, tf.float32))
            outputs = maps(tf.cast(pixels, self.precision), training=False)
            outputs = outputs if isinstance(outputs, list) else [outputs]
            pooled = [_pool(tf.cast(map_, tf.float32), g) for map_, g in zip(outputs, grids, strict=True)]
            if self.mirror:
                pooled = [sum(tf.split(cells, 2)) / 2 for cells in pooled]
            inner = [
                output
                for operation in tf.compat.v1.get_default_graph().get_operations()
                for output in operation.outputs
                if output.dtype == tf.float16
            ]
            finite = [tf.reduce_all(tf.math.is_finite(numbers)) for numbers in (*pooled, *inner)]
            return [*pooled, tf.reduce_all(tf.stack(finite))]

        signature = [tf.TensorSpec((None, self.image_size, self.image_size, 3), tf.uint8)]
        traced = tf.function(network, input_signature=signature, autograph=False).get_concrete_function()
        return convert_variables_to_constants_v2(traced)


def distances(vectors: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.float64]:
    """How far each vector is from its reference, relative to the reference's length.

    Parameters
    ----------
    vectors, reference : (n, d) float32.

    Returns
    -------
    ndarray of shape (n,), float64
        0 where the two are equal; infinite where only the reference is zero, or a number is NaN.
    """
    exact = reference.astype(np.float64)  # whose squares do not overflow
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = np.linalg.norm(vectors - exact, axis=1)
        away = np.where(moved == 0, 0.0, moved / np.linalg.norm(exact, axis=1))
    return np.where(np.isnan(away), np.inf, away)


def store_of(spec: Mapping[str, Any]) -> str:
    """The dtype of the vectors in a cache with this spec."""
    return str(spec.get("store", STORES[0]))


VGG16 = Extractor  # VGG16 is its default network


def parse_layers(
    layers: str | Sequence[str], image_size: int, backbone: Backbone | None = None
) -> tuple[str, ...]:
    """The layers named in a list or a text with commas, in canonical spelling, sorted by name.

    ``a,b`` and ``b,a`` are the same embedding, with the same spec.

    Parameters
    ----------
    backbone : the network; None: the default network.

    Raises
    ------
    UserError
        A layer is unknown or named twice, or its grid is finer than its feature map.
    """
    entry = backbone or known(DEFAULT)
    names = []
    for text in layers.split(",") if isinstance(layers, str) else layers:
        tap, grid = entry.parse(text.strip())
        side = entry.side(tap, image_size)
        if grid > side:
            raise UserError(
                f"layers={text.strip()}: a {grid} x {grid} grid, but at {image_size} px {tap} "
                f"is {side} x {side}; expected @{side} at most, or a larger image_size="
            )
        names.append(tap if grid == 1 else f"{tap}@{grid}")
    if len(set(names)) < len(names):
        raise UserError(f"layers={','.join(names)}: a layer is named twice; name each once")
    return tuple(sorted(names))


def _pool(maps: Any, grid: int) -> Any:
    """Average feature maps ``(n, m, m, c)`` to ``(n, grid * grid * c)``.

    If the grid divides the map, plain average pooling is 4 to 8 times as fast as Keras' adaptive pooling
    (maps of 2 to 14 cells, Keras 3.15.1), which does not support some maps of a single cell.
    """
    tf = tensorflow()
    import keras

    side, channels = maps.shape[1], maps.shape[3]
    if side % grid == 0:
        cells = tf.nn.avg_pool2d(maps, side // grid, side // grid, "VALID") if side > grid else maps
    else:
        cells = keras.layers.AdaptiveAveragePooling2D(grid)(maps)
    return tf.reshape(cells, (-1, grid * grid * channels))
