"""The Keras head: a fully connected network with scikit-learn's interface."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from features.backend import tensorflow
from models.heads.base import BaseHead, OnEpoch, Watched
from models.heads.blocks import Blocks, Rows, evenly, in_blocks, validated
from models.heads.epochs import CALL_BYTES, one_epoch
from models.heads.linear import centre_and_scale, class_weights
from models.heads.parameters import (
    CLASS_WEIGHT,
    FLAG,
    automatic,
    check,
    number,
    one_of,
    optional,
    positive,
    several,
    share,
    whole,
)
from models.heads.refusal import Refused
from models.heads.spool import Scattered
from models.temperature import softmax

ACTIVATIONS = (
    "relu",
    "leaky_relu",
    "elu",
    "selu",
    "gelu",
    "silu",
    "mish",
    "softplus",
    "tanh",
    "sigmoid",
    "linear",
)
AUTO = "auto"  # the value depends on the number of training images
MANY, FEW = 50_000, 5_000  # training images beyond which ``auto`` values are constant
UNITS = 2**16  # of a hidden layer, at most: its kernel must fit into memory
PREDICT_ROWS = 4096  # rows per call in prediction
COPIES = 6  # of the network's arrays: weights, gradient, AdamW's two moments, best epoch, one temporary
CALLS = 3  # copies of the rows of a call: temporary, in TensorFlow, and after dropout
MEASURE_ROWS = 5000  # training rows on which accuracy and loss are measured after each epoch


class DenseHead(BaseHead, ClassifierMixin, BaseEstimator):
    """A fully connected network from embeddings to classes.

    Parameters
    ----------
    hidden : units of each hidden layer.
    activation : of the hidden layers: one of ``ACTIVATIONS``, in Keras' names.
    standardize : standardise inputs with mean and variance of the training images.
    batch_norm : batch normalisation before each activation.
    dropout : dropout rate of hidden units.
    input_dropout : dropout rate of inputs; ``auto``: 0.2 for at least 50,000 training images, 0.6 for at most
        5,000, and in between linear in the logarithm of their number.
    input_noise : standard deviation of Gaussian noise added to standardised inputs.
    label_smoothing : probability distributed among all classes in training targets.
    optimizer : ``adamw`` or ``sgd``.
    learning_rate : initial learning rate.
    schedule : ``cosine``: decay to zero over ``epochs``; ``exponential``: by 0.9 every 10,000 steps,
        continuously.
    weight_decay : of AdamW.
    batch_size : rows per step.
    epochs : length of the schedule; ``auto``: 12 for at least 50,000 training images, for fewer inversely
        proportional to the square root of their number, at most 100.
    patience : epochs without a better validation accuracy after which ``fit`` stops; None: never, and the
        last epoch is kept; ``auto``: 5, but None if ``epochs`` is ``auto`` and there are fewer than 50,000
        training images, since choosing among many epochs on few validation images overfits. Only used with
        ``validation_data``.
    stop_epoch : stop at this epoch of the schedule, as chosen on validation; None: at the end.
    random_state : seed of initial weights, order of rows, and dropout.
    class_weight : as in scikit-learn; ``balanced`` gives all classes the same total weight.

    Attributes
    ----------
    classes_ : (k,) class labels.
    weights_ : the network's arrays, in Keras' order.
    mean_, scale_ : (d,) float32, mean and standard deviation of the inputs (0 and 1 without ``standardize``).
    history_ : for each epoch, ``loss`` (cross-entropy in nats, without smoothing) and ``accuracy`` on a
        fixed sample of at most 5,000 training rows, and ``val_loss`` and ``val_accuracy`` on the validation
        rows. All are measured after the epoch and without dropout, so that they are comparable.
    best_epoch_ : the epoch whose weights are kept: the one with the best validation accuracy, or the last.

    Notes
    -----
    The ``auto`` values were tuned by cross-validation on official and JPEG pixels of CIFAR-10 with 1,000 and
    4,068 images (``benchmarks/few_images.py``, docs/results.md); between 5,000 and 50,000 images they are
    interpolated.
    """

    def __init__(
        self,
        hidden: tuple[int, ...] = (512,),
        activation: str = "gelu",
        standardize: bool = True,
        batch_norm: bool = True,
        dropout: float = 0.5,
        input_dropout: float | str = AUTO,
        input_noise: float = 0.0,
        label_smoothing: float = 0.1,
        optimizer: str = "adamw",
        learning_rate: float = 1e-3,
        schedule: str = "cosine",
        weight_decay: float = 0.05,
        batch_size: int = 256,
        epochs: int | str = AUTO,
        patience: int | str | None = AUTO,
        stop_epoch: int | None = None,
        random_state: int = 0,
        class_weight: str | Mapping[Any, float] | None = None,
    ) -> None:
        self.hidden = hidden
        self.activation = activation
        self.standardize = standardize
        self.batch_norm = batch_norm
        self.dropout = dropout
        self.input_dropout = input_dropout
        self.input_noise = input_noise
        self.label_smoothing = label_smoothing
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.epochs = epochs
        self.patience = patience
        self.stop_epoch = stop_epoch
        self.random_state = random_state
        self.class_weight = class_weight

    def fit(
        self,
        X: Rows,
        y: NDArray[Any],
        validation_data: Watched | None = None,
        on_epoch: OnEpoch | None = None,
    ) -> DenseHead:
        """Train the network.

        Parameters
        ----------
        X, y : (n, d) float32 and (n,) labels.
        validation_data : (m, d) float32 and (m,) labels for early stopping and curves; None: neither.
        on_epoch : called after each epoch with its number, from 1, and ``history_``.

        Raises
        ------
        ValueError
            NaN or infinite inputs, one class only, shapes that do not match, a parameter out of its
            range, or training that diverges.
        """
        self.check()
        X, y = validated(self, X, y)
        codes = self._encoded(y)
        width = X.shape[1]
        moments = centre_and_scale(X) if self.standardize else (np.zeros(width), np.ones(width))
        self.mean_, self.scale_ = (part.astype(np.float32) for part in moments)
        rng = np.random.default_rng(self.random_state)
        drawn = np.sort(rng.permutation(len(X))[:MEASURE_ROWS])
        own = (X.sample(), codes[evenly(len(X))]) if isinstance(X, Blocks) else (X[drawn], codes[drawn])
        measured: dict[str, tuple[Rows, NDArray[np.int64]]] = {"": own}
        if validation_data is not None:
            X_val = validation_data[0]
            if not isinstance(X_val, Blocks):
                X_val = validate_data(self, X_val, dtype=np.float32, reset=False)
            target = np.asarray(validation_data[1])
            if target.shape != (len(X_val),) or not np.isin(target, self.classes_).all():
                raise ValueError(
                    f"validation_data: expected {len(X_val)} labels, each of a class that is in y; "
                    f"got {target.shape} with {len(np.setdiff1d(target, self.classes_))} unknown classes"
                )
            measured["val_"] = (X_val, np.searchsorted(self.classes_, target))
        decided = self.automatic(len(X))
        self._network = self._build(rng, decided["input_dropout"])
        run_epoch = self._trainer(X, codes, decided["epochs"])
        self.history_: dict[str, list[float]] = {}
        patience = decided["patience"] if self.stop_epoch is None else None
        best, self.best_epoch_ = -1.0, 0
        for epoch in range(1, (self.stop_epoch or decided["epochs"]) + 1):
            run_epoch(rng.permutation(len(X)))
            if validation_data is not None:  # without it there is nothing to compare training with
                for name, (rows, target) in measured.items():
                    loss, accuracy = self._measure(rows, target)
                    self.history_.setdefault(f"{name}loss", []).append(loss)
                    self.history_.setdefault(f"{name}accuracy", []).append(accuracy)
                if on_epoch is not None:
                    on_epoch(epoch, self.history_)
                if accuracy <= best and patience is not None:
                    if epoch - self.best_epoch_ >= patience:
                        break
                    continue
                best = accuracy
            self.best_epoch_ = epoch
            self.weights_ = self._network.get_weights()
        self._network.set_weights(self.weights_)
        self._measure(*own)  # raises if training has diverged
        return self

    def fit_watching(self, X: Rows, y: NDArray[Any], watched: Watched, on_epoch: OnEpoch | None) -> Any:
        """``fit`` with ``validation_data``."""
        return self.fit(X, y, watched, on_epoch)

    def curves(self) -> tuple[dict[str, list[float]], int | None]:
        """``history_`` and ``best_epoch_``."""
        return self.history_, self.best_epoch_

    def memory_in_blocks(self, rows: int, width: int, classes: int) -> tuple[int, str]:
        """Bytes of the network's arrays, and of the rows of a call."""
        units = [width, *self.hidden, classes]
        arrays = sum(inputs * outputs for inputs, outputs in pairwise(units))
        return (
            4 * COPIES * arrays + CALLS * CALL_BYTES,
            f"{COPIES} x {arrays:,} weights x 4 bytes + {CALLS} x {CALL_BYTES:,} bytes of rows",
        )

    def decided(self) -> dict[str, Any]:
        """``stop_epoch`` as chosen by early stopping, if there was any."""
        stops = self.patience is not None and self.stop_epoch is None
        return {"stop_epoch": self.best_epoch_} if stops else {}

    def automatic(self, rows: int) -> dict[str, Any]:
        """Values of the parameters that are ``auto``, for this number of training images."""
        fewer = min(max(math.log(MANY / rows, MANY / FEW), 0.0), 1.0)  # 0 for many images, 1 for few
        epochs = min(max(round(12 * math.sqrt(MANY / rows)), 12), 100)
        patience = 5 if rows >= MANY or self.epochs != AUTO else None
        ways = {"epochs": epochs, "input_dropout": round(0.2 + 0.4 * fewer, 2), "patience": patience}
        return {
            name: way if getattr(self, name) == AUTO else getattr(self, name) for name, way in ways.items()
        }

    def check(self) -> None:
        """Raise ``ValueError`` for the first invalid parameter."""
        check(
            self,
            hidden=several(whole(1, UNITS)),
            activation=one_of(*ACTIVATIONS),
            standardize=FLAG,
            batch_norm=FLAG,
            dropout=number(0, below=1),
            input_dropout=automatic(number(0, below=1)),
            input_noise=share(),
            label_smoothing=number(0, below=1),
            optimizer=one_of("adamw", "sgd"),
            learning_rate=positive(),
            schedule=one_of("cosine", "exponential"),
            weight_decay=number(0),
            batch_size=whole(1),
            epochs=automatic(whole(1)),
            patience=automatic(optional(whole(1))),
            stop_epoch=optional(whole(1)),
            random_state=whole(0),
            class_weight=CLASS_WEIGHT,
        )

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Class probabilities, ``(n, k)`` float64; columns follow ``classes_``."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, order="C", reset=False)
        return softmax(self._logits(X).astype(np.float64))

    def plain(self, temperature: float = 1.0) -> Any:
        """A Keras model from raw embeddings to probabilities at this temperature, with Keras layers only."""
        import keras

        check_is_fitted(self)
        self._logits(np.zeros((1, len(self.mean_)), np.float32))
        softmax = [keras.layers.Rescaling(1 / temperature), keras.layers.Softmax()]
        return keras.Sequential([keras.Input((len(self.mean_),)), *self._network.layers, *softmax])

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_network"}

    def _logits(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        if not hasattr(self, "_network"):
            self._network = self._build(np.random.default_rng(0), 0.0)
            self._network.set_weights(self.weights_)
        parts = [
            np.asarray(self._network(X[start : start + PREDICT_ROWS], training=False))
            for start in range(0, len(X), PREDICT_ROWS)
        ]
        logits = np.concatenate(parts)
        if not np.isfinite(logits).all():
            raise Refused(
                "training diverged, the network's outputs are not finite; "
                f"expected a learning_rate below {self.learning_rate:g}"
            )
        return logits

    def _measure(self, X: Rows, codes: NDArray[np.int64]) -> tuple[float, float]:
        """Mean cross-entropy in nats, and accuracy."""
        logits = np.concatenate([self._logits(block) for _, block in in_blocks(X)]).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        log_likelihood = logits[np.arange(len(X)), codes] - np.log(np.exp(logits).sum(axis=1))
        return float(-log_likelihood.mean()), float((logits.argmax(axis=1) == codes).mean())

    def _build(self, rng: np.random.Generator, input_dropout: float) -> Any:
        """Build the network from raw embeddings to logits; initial weights are drawn from ``rng``."""
        tensorflow()
        import keras

        def seed() -> int:
            return int(rng.integers(2**31))

        layers = [
            keras.Input((len(self.mean_),)),
            keras.layers.Normalization(mean=self.mean_, variance=self.scale_**2),
        ]
        if self.input_noise:
            layers.append(keras.layers.GaussianNoise(self.input_noise, seed=seed()))
        if input_dropout:
            layers.append(keras.layers.Dropout(input_dropout, seed=seed()))
        for units in self.hidden:
            start = keras.initializers.HeNormal(seed())
            layers.append(keras.layers.Dense(units, kernel_initializer=start))
            if self.batch_norm:
                layers.append(keras.layers.BatchNormalization(momentum=0.9))
            layers.append(keras.layers.Activation(self.activation))
            if self.dropout:
                layers.append(keras.layers.Dropout(self.dropout, seed=seed()))
        start = keras.initializers.GlorotUniform(seed())
        layers.append(keras.layers.Dense(len(self.classes_), kernel_initializer=start))
        return keras.Sequential(layers)

    def _trainer(self, X: Rows, codes: NDArray[np.int64], epochs: int) -> Callable[[NDArray[np.int64]], None]:
        """Return a function that trains one epoch of the schedule, on the rows in a given order."""
        import keras

        size = min(self.batch_size, len(X))
        steps = len(X) // size
        if self.schedule == "cosine":
            rate = keras.optimizers.schedules.CosineDecay(self.learning_rate, steps * epochs)
        else:
            rate = keras.optimizers.schedules.ExponentialDecay(self.learning_rate, 10_000, 0.9)
        if self.optimizer == "adamw":
            optimizer = keras.optimizers.AdamW(rate, weight_decay=self.weight_decay)
        else:
            optimizer = keras.optimizers.SGD(rate)
        cost = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=self.label_smoothing)
        weights = class_weights(codes, self.classes_, self.class_weight)
        source: NDArray[np.float32] | Scattered
        if isinstance(X, Blocks):
            source = Scattered(X, X.memory - self.memory_in_blocks(*X.shape, len(self.classes_))[0])
        else:
            source = X
        return one_epoch(self._network, source, codes, size, optimizer, cost, weights)
