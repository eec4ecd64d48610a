"""Every classifier head: how it is built and what it is swept over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from features.errors import UserError


@dataclass(frozen=True)
class Head:
    """One entry of ``HEADS``.

    Attributes
    ----------
    make : builds the unfitted scikit-learn estimator from a seed; imports only what it needs.
    about : one line for people.
    grid : the one parameter that is swept, and its values from the most regularised to the least.
    """

    make: Callable[[int], Any]
    about: str
    grid: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def _logistic(seed: int) -> Any:
    from models.logistic import LogisticHead

    return LogisticHead(warm_start=True)  # draws nothing; each step of the sweep is a short one


def _dense(seed: int) -> Any:
    from models.dense import DenseHead

    return DenseHead(random_state=seed)


def _baseline(seed: int) -> Any:
    from models.dense import DenseHead

    return DenseHead(
        hidden=(256,),
        activation="relu",
        standardize=False,
        batch_norm=False,
        dropout=0.0,
        label_smoothing=0.0,
        optimizer="sgd",
        learning_rate=0.01,
        schedule="exponential",
        weight_decay=0.0,
        batch_size=128,
        epochs=10,
        patience=None,
        random_state=seed,
    )


HEADS: dict[str, Head] = {
    "logistic": Head(
        _logistic,
        "multinomial logistic regression on standardised embeddings (the linear probe)",
        {"C": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)},
    ),
    "dense": Head(_dense, "one hidden layer in Keras: batch normalisation, dropout, early stopping"),
    "baseline": Head(_baseline, "the assignment's: 256 ReLU units, plain SGD, 10 epochs"),
}


def head(name: str) -> Head:
    """The head of this name.

    Raises
    ------
    UserError
        There is none; the known ones are listed.
    """
    if name not in HEADS:
        raise UserError(f"unknown head {name!r}: expected one of {', '.join(HEADS)}")
    return HEADS[name]
