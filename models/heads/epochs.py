"""Epochs: a Keras network trained on rows in random order, many steps to a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.backend import tensorflow
from models.heads.spool import Scattered

CALL_BYTES = 2**24  # of rows that one call trains on


def one_epoch(
    network: Any,
    X: NDArray[np.float32] | Scattered,
    codes: NDArray[np.int64],
    size: int,
    optimizer: Any,
    cost: Any,
    class_weights: NDArray[np.float64] | None = None,
) -> Callable[[NDArray[np.int64]], None]:
    """A function that trains the network one epoch, on the rows in a given order.

    One graph call is many steps, as at small widths a call costs more than a step (Keras' own
    ``steps_per_execution`` is that too: against it this is 1.1 to 2.3 times as fast at 512 columns,
    docs/results.md); what comes before
    the first weights is done for all their rows at once; and TensorFlow is given the rows of one
    call at a time, not a copy of them all. The loop is TensorFlow's own: AutoGraph, which would make one
    of Python's, leans on what Python 3.13 deprecates.

    Parameters
    ----------
    network : a ``keras.Sequential`` from inputs to logits.
    X, codes : (n, d) float32, in memory or scattered over parts on a disk, and (n,) class numbers.
    size : rows a step, at most n; an epoch leaves out the last n modulo ``size``.
    optimizer, cost : Keras' optimizer, and its loss of one-hot targets and logits.
    class_weights : (k,) what an image of each class counts; None: all the same.
    """
    tf = tensorflow()
    import keras

    (_, width), classes = X.shape, network.output_shape[-1]
    variables = network.trainable_variables
    optimizer.build(variables)
    first = [isinstance(layer, keras.layers.Dense) for layer in network.layers].index(True)
    weights = None if class_weights is None else tf.constant(class_weights, tf.float32)
    on_rows, in_steps = network.layers[:first], network.layers[first:]

    # Compiled, it is one pass over the weights, where plain TensorFlow makes a dozen.
    @tf.function(jit_compile=True, autograph=False)
    def update(gradients: Any) -> None:
        optimizer.apply(gradients, variables)

    given = [tf.TensorSpec((None, width), tf.float32), tf.TensorSpec((None,), tf.int64)]

    @tf.function(input_signature=given, autograph=False)
    def train(inputs: Any, targets: Any) -> None:
        batches = tf.reshape(_forward(on_rows, inputs), (-1, size, width))
        truths = tf.reshape(tf.one_hot(targets, classes), (-1, size, classes))

        def one_step(step: Any) -> tuple[Any]:
            with tf.GradientTape() as tape:
                weight = None if weights is None else tf.linalg.matvec(truths[step], weights)
                loss = cost(truths[step], _forward(in_steps, batches[step]), weight)
            update(tape.gradient(loss, variables))
            return (step + 1,)

        tf.while_loop(lambda step: step < tf.shape(truths)[0], one_step, [0], parallel_iterations=1)

    call = max(CALL_BYTES // (4 * width * size), 1) * size

    def epoch(order: NDArray[np.int64]) -> None:
        left, rows_left = np.empty((0, width), np.float32), np.empty(0, np.int64)
        for rows, values in in_order(X, order, call):
            if len(rows_left):
                values, rows = np.concatenate((left, values)), np.concatenate((rows_left, rows))
            whole = len(rows) // size * size
            if whole:
                train(tf.constant(values[:whole]), tf.constant(codes[rows[:whole]]))
            left, rows_left = values[whole:], rows[whole:]

    return epoch


def in_order(
    X: NDArray[np.float32] | Scattered, order: NDArray[np.int64], most: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Each row once, at most so many at a time, in a random order: their numbers, and the rows."""
    if isinstance(X, Scattered):
        yield from X.in_order(order, most)
        return
    for start in range(0, len(order), most):
        rows = order[start : start + most]
        yield rows, X[rows]


def _forward(layers: list[Any], inputs: Any) -> Any:
    """What the layers make of the inputs in training."""
    import keras

    for layer in layers:
        if isinstance(layer, keras.layers.Dropout):
            inputs = drop(inputs, layer.rate, layer.seed_generator.next())
        else:
            inputs = layer(inputs, training=True)
    return inputs


def drop(inputs: Any, rate: float, seed: Any) -> Any:
    """Dropout that decides by 16 random bits, where Keras' draws a float32 by 32: random numbers are dear.

    The rate is met to 2**-17, and the inputs that stay are scaled by the share that really does.
    """
    tf = tensorflow()
    levels = 2**16
    rest, count = min(round(rate * levels), levels - 1), tf.size(inputs)
    words = tf.random.stateless_uniform(((count + 1) // 2,), tf.cast(seed, tf.int32), None, None, tf.uint32)
    bits = tf.reshape(tf.reshape(tf.bitcast(words, tf.uint16), (-1,))[:count], tf.shape(inputs))
    return tf.where(bits < tf.cast(rest, tf.uint16), 0.0, inputs * (levels / (levels - rest)))
