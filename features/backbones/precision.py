"""Choice of the network's precision: the fastest on this machine that agrees with float32."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.backbones.extractor import Extractor
from features.backend import tensorflow
from features.errors import UserError

AGREEMENT = 0.999  # cosine between the two embeddings of an image: every row, every layer
GAIN = 1.1  # speed-up that a lower precision must reach
HOPELESS = 0.5  # of float32's speed in one convolution: below it, a precision is emulated and not tried
REPEATS = 20  # of that convolution; the fastest counts, since other processes only slow it down
SAMPLE = 32  # images whose vectors are compared
TIMED = 100  # images per timed call: enough to measure, with less memory than a batch
SECONDS = 0.5  # how long each network, and at most each convolution, is timed


def choose(extractor: Extractor, images: NDArray[np.uint8]) -> tuple[Extractor, str]:
    """Choose the precision of an extractor.

    Candidates are bfloat16 and, on a GPU, float16. The time of one convolution rules out candidates that
    the processor only emulates, which can be hundreds of times slower. The others embed ``images`` and are
    compared with float32.

    Parameters
    ----------
    extractor : at precision ``auto``.
    images : (n, size, size, 3) uint8, the first rows of the dataset.

    Returns
    -------
    tuple
        The extractor at the chosen precision, and the reason in words.
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
        except tf.errors.OpError:  # operations of the network that the convolution does not use
            reasons.append(f"{precision} does not run on this processor")
            continue
        if not agreement >= AGREEMENT:  # also for NaN
            reasons.append(f"{precision} disagrees with float32 (cosine {agreement:.5f})")
            continue
        speeds = [_images_per_second(network, images) for network in (exact, rough)]
        rates = f"{speeds[1]:,.0f} img/s against {speeds[0]:,.0f} in float32, cosine at least {agreement:.5f}"
        if speeds[1] >= GAIN * speeds[0]:
            return rough, f"{precision}: {rates}"
        reasons.append(f"{precision} is not faster: {rates}")
    return exact, f"float32: {'; '.join(reasons)}"


def _convolution_seconds(tf: Any, precision: str) -> float:
    """The shortest time of a 3 x 3 convolution of a few small feature maps."""
    maps = tf.cast(tf.random.stateless_normal((4, 8, 8, 256), (0, 1)), precision)
    filters = tf.cast(tf.random.stateless_normal((3, 3, 256, 256), (2, 3)), precision)
    seconds: list[float] = []
    while len(seconds) < REPEATS and sum(seconds) < SECONDS:
        started = time.perf_counter()
        tf.nn.conv2d(maps, filters, 1, "SAME").numpy()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _agreement(exact: Extractor, rough: Extractor, images: NDArray[np.uint8]) -> float:
    """The smallest cosine over rows and layers; NaN if the lower precision overflows."""
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
    network.embed(batch)  # the first call with a shape compiles
    done, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < SECONDS or not done:
        network.embed(batch)
        done += len(batch)
    return done / elapsed
