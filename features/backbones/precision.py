"""Which arithmetic is faster on this machine, and does it say the same?"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.backbones.extractor import Extractor
from features.backend import tensorflow
from features.errors import UserError

AGREEMENT = 0.999  # cosine between the two embeddings of an image: every row, every layer
GAIN = 1.1  # how much faster low precision must be to be worth it
HOPELESS = 0.5  # of float32's speed in one convolution, below which nothing more is tried: emulated
REPEATS = 20  # of that convolution; the best counts, as a disturbed one tells nothing
SAMPLE = 32  # images that are compared
TIMED = 100  # images in a timed call: enough to tell, without the memory of a whole batch
SECONDS = 0.5  # how long each network, and at most each convolution, is timed


def choose(extractor: Extractor, images: NDArray[np.uint8]) -> tuple[Extractor, str]:
    """The extractor at the faster precision, and why.

    Candidates are bfloat16, and float16 on a GPU. A single convolution tells in milliseconds
    whether a candidate is worth building a network for: where the processor has no instructions for
    it, it can be hundreds of times slower. Then both networks embed the same images.

    Parameters
    ----------
    extractor : at precision ``auto``.
    images : (n, size, size, 3) uint8, the first rows of the dataset.
    """
    tf = tensorflow()
    exact = extractor.at("float32")
    candidates = ["bfloat16", *(["float16"] if tf.config.list_physical_devices("GPU") else [])]
    plain = _convolution_seconds(tf, "float32")
    reasons = []
    for precision in candidates:
        rough = extractor.at(precision)
        try:
            ratio = plain / _convolution_seconds(tf, precision)
            if ratio < HOPELESS:
                reasons.append(f"{precision} convolves at {ratio:.2g} of float32's speed here")
                continue
            agreement = _agreement(exact, rough, images[:SAMPLE])
        except tf.errors.OpError:  # some networks have operations that the trial convolution is not
            reasons.append(f"{precision} does not run on this processor")
            continue
        if not agreement >= AGREEMENT:  # which NaN is not
            reasons.append(f"{precision} disagrees with float32 (cosine {agreement:.5f})")
            continue
        speeds = [_images_per_second(network, images) for network in (exact, rough)]
        rates = f"{speeds[1]:,.0f} img/s against {speeds[0]:,.0f} in float32, cosine at least {agreement:.5f}"
        if speeds[1] >= GAIN * speeds[0]:
            return rough, f"{precision}: {rates}"
        reasons.append(f"{precision} is not faster: {rates}")
    return exact, f"float32: {'; '.join(reasons)}"


def _convolution_seconds(tf: Any, precision: str) -> float:
    """The best of some runs of a 3 x 3 convolution on a few small maps."""
    maps = tf.cast(tf.random.stateless_normal((4, 8, 8, 256), (0, 1)), precision)
    filters = tf.cast(tf.random.stateless_normal((3, 3, 256, 256), (2, 3)), precision)
    seconds: list[float] = []
    while len(seconds) < REPEATS and sum(seconds) < SECONDS:
        started = time.perf_counter()
        tf.nn.conv2d(maps, filters, 1, "SAME").numpy()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _agreement(exact: Extractor, rough: Extractor, images: NDArray[np.uint8]) -> float:
    """The smallest cosine over rows and layers; NaN where the rough network's numbers leave its range."""
    one = exact.embed(images)
    try:
        two = rough.embed(images)
    except UserError:
        return float("nan")
    cosines = []
    for layer in one:
        lengths = np.linalg.norm(one[layer], axis=1) * np.linalg.norm(two[layer], axis=1)
        cosines.append((one[layer] * two[layer]).sum(axis=1) / np.maximum(lengths, 1e-30))
    return float(np.concatenate(cosines).min())


def _images_per_second(network: Extractor, images: NDArray[np.uint8]) -> float:
    batch = images[: min(network.batch, TIMED)]
    network.embed(batch)  # the first call of a shape prepares it
    done, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < SECONDS or not done:
        network.embed(batch)
        done += len(batch)
    return done / elapsed
