"""The training loop of the Keras head: many steps per call of the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.backend import tensorflow
from models.heads.spool import Scattered

CALL_BYTES = 2**24  # of rows per call


def one_epoch(
    network: Any,
    X: NDArray[np.float32] | Scattered,
    codes: NDArray[np.int64],
    size: int,
    optimizer: Any,
    cost: Any,
    class_weights: NDArray[np.float64] | None = None,
) -> Callable[[NDArray[np.int64]], None]:
    """Return a function that trains the network for one epoch, on the rows in a given order.

    A call of the graph makes many steps, since at small widths a call takes longer than a step. (Compared
    with Keras' ``steps_per_execution`` it is 1.1 to 2.3 times as fast at 512 columns, docs/results.md.)
    Layers before the first weights are applied to all rows of a call at once, and TensorFlow receives the
    rows of one call at a time instead of a copy of all. The loop is ``tf.while_loop``, because AutoGraph
    uses features that Python 3.13 deprecates.

    Parameters
    ----------
    network : a ``keras.Sequential`` from inputs to logits.
    X, codes : (n, d) float32, in memory or on disk, and (n,) class numbers.
    size : rows per step, at most n; an epoch omits the last n modulo ``size`` rows.
    optimizer, cost : Keras' optimizer, and its loss of one-hot targets and logits.
    class_weights : (k,) class weights; None: all equal.
    """
    tf = tensorflow()
    import keras

    (_, width), classes = X.shape, network.output_shape[-1]
    variables = network.trainable_variables
    optimizer.build(variables)
    first = [isinstance(layer, keras.layers.Dense) for layer in network.layers].index(True)
    weights = None if class_weights is None else tf.constant(class_weights, tf.float32)
    on_rows, in_steps = network.layers[:first], network.layers[first:]

    # XLA fuses the update into one pass over the weights, instead of a dozen.
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
    """Yield each row once, in ``order``: row numbers (m,) and rows (m, d), at most ``most`` at a time."""
    if isinstance(X, Scattered):
        yield from X.in_order(order, most)
        return
    for start in range(0, len(order), most):
        rows = order[start : start + most]
        yield rows, X[rows]


def _forward(layers: list[Any], inputs: Any) -> Any:
    """Apply the layers to the inputs in training mode."""
    import keras

    for layer in layers:
        if isinstance(layer, keras.layers.Dropout):
            inputs = drop(inputs, layer.rate, layer.seed_generator.next())
        else:
            inputs = layer(inputs, training=True)
    return inputs


def drop(inputs: Any, rate: float, seed: Any) -> Any:
    """Dropout with 16 random bits per input, where Keras uses 32: random numbers dominate its cost.

    The rate is accurate to 2**-17; the remaining inputs are scaled by the inverse of the actual keep rate.
    """
    tf = tensorflow()
    levels = 2**16
    rest, count = min(round(rate * levels), levels - 1), tf.size(inputs)
    words = tf.random.stateless_uniform(((count + 1) // 2,), tf.cast(seed, tf.int32), None, None, tf.uint32)
    bits = tf.reshape(tf.reshape(tf.bitcast(words, tf.uint16), (-1,))[:count], tf.shape(inputs))
    return tf.where(bits < tf.cast(rest, tf.uint16), 0.0, inputs * (levels / (levels - rest)))
