"""Every classifier head: how it is built and what it is swept over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from features.errors import UserError
from models.heads import parameters, saved
from models.heads.refusal import Refused

FIXED = ("random_state", "warm_start")  # parameters that no setting changes: the seed's, and the sweep's


@dataclass(frozen=True)
class Head:
    """One entry of ``HEADS``.

    Attributes
    ----------
    make : builds the unfitted scikit-learn estimator from a seed; imports only what it needs.
    about : one line for people.
    grid : what is swept: each parameter's values, numbers from the most regularised to the least.
    random : whether the seed changes the result.
    """

    make: Callable[[int], Any]
    about: str
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    random: bool = False

    def make_for(self, seed: int, rows: int) -> Any:
        """The unfitted estimator for so many training images: none of its parameters is ``auto``.

        An estimator that has such parameters says by its ``automatic(rows)`` what they are.
        """
        estimator = self.make(seed)
        if "auto" in map(str, estimator.get_params(deep=False).values()):
            estimator.set_params(**estimator.automatic(rows))
        return estimator

    def configuration(self, seed: int, rows: int) -> dict[str, Any]:
        """What is asked for before validation decides, with so many training images: parameters, grids."""
        return {
            "asked": saved.parameters(self.make_for(seed, rows)),
            "grid": {name: list(values) for name, values in self.grid.items()},
        }


def _prior(seed: int) -> Any:
    from models.heads.moments import PriorHead

    return PriorHead()


def _centroid(seed: int) -> Any:
    from models.heads.moments import CentroidHead

    return CentroidHead()


def _knn(seed: int) -> Any:
    from models.heads.knn import KnnHead

    return KnnHead()


def _ridge(seed: int) -> Any:
    from models.heads.moments import RidgeHead

    return RidgeHead()


def _lda(seed: int) -> Any:
    from models.heads.moments import LdaHead

    return LdaHead()


def _logistic(seed: int) -> Any:
    from models.heads.lbfgs import LogisticHead

    return LogisticHead(warm_start=True)  # the refit starts where the sweep ended


def _svm(seed: int) -> Any:
    from models.heads.lbfgs import SvmHead

    return SvmHead(warm_start=True)


def _dense(seed: int) -> Any:
    from models.heads.dense import DenseHead

    return DenseHead(random_state=seed)


def _baseline(seed: int) -> Any:
    from models.heads.dense import DenseHead

    return DenseHead(
        hidden=(256,),
        activation="relu",
        standardize=False,
        batch_norm=False,
        dropout=0.0,
        input_dropout=0.0,
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


INVERSE_STRENGTH = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)

HEADS: dict[str, Head] = {
    "prior": Head(_prior, "no look at the image: every class as likely as in training (the floor)"),
    "centroid": Head(_centroid, "the class whose mean embedding is nearest"),
    "knn": Head(
        _knn,
        "nearest neighbours by cosine, the more similar the more they count",
        {"k": (100, 50, 20, 10, 5), "temperature": (0.2, 0.1, 0.05, 0.02, 0.01, 0.005)},
    ),
    "lda": Head(
        _lda,
        "linear discriminant analysis with shrinkage",
        {"shrinkage": (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00003)},
    ),
    "ridge": Head(
        _ridge,
        "least squares with a squared penalty, in closed form",
        {"alpha": (1e6, 3e5, 1e5, 3e4, 1e4, 3e3, 1e3, 3e2, 1e2, 1e1)},
    ),
    "svm": Head(_svm, "linear support vector machine, squared hinge", {"C": INVERSE_STRENGTH}),
    "logistic": Head(
        _logistic, "multinomial logistic regression (the linear probe)", {"C": INVERSE_STRENGTH}
    ),
    "dense": Head(
        _dense, "one hidden layer in Keras: batch normalisation, dropout, early stopping", random=True
    ),
    "baseline": Head(_baseline, "the assignment's: 256 ReLU units, plain SGD, 10 epochs", random=True),
}


def head(name: str, settings: Mapping[str, Any] | None = None) -> Head:
    """The head of this name, with some constructor parameters set; what is set is not swept.

    Raises
    ------
    UserError
        There is no such head, it has no such parameter, or no such value; the known are listed.
    """
    if name not in HEADS:
        raise UserError(f"unknown head {name!r}: expected one of {', '.join(HEADS)}; or all, or vote")
    return with_settings(name, HEADS[name], settings) if settings else HEADS[name]


def with_settings(name: str, entry: Head, settings: Mapping[str, Any]) -> Head:
    """``entry``, called ``name``, with ``settings`` for its parameters and its grids narrowed to them."""
    defaults = entry.make_for(0, 1).get_params(deep=False)  # each of the type that its values have
    known = [parameter for parameter in defaults if parameter not in FIXED]
    for parameter in settings:
        if parameter not in known:
            listed = f"expected one of {', '.join(known)}" if known else "it has none; leave SET= out"
            raise UserError(f"SET: {name} has no parameter {parameter!r}: {listed}")
    values = {parameter: parameters.like(value, defaults[parameter]) for parameter, value in settings.items()}

    def make(seed: int) -> Any:
        return entry.make(seed).set_params(**values)

    try:
        make(0).check()
    except Refused as error:
        raise UserError(f"SET: {error}") from None
    grid = {
        parameter: (values[parameter],) if parameter in values else tried
        for parameter, tried in entry.grid.items()
    }
    return replace(entry, make=make, grid=grid)


def remade(name: str, seed: int, kept: Mapping[str, Any]) -> Any:
    """The unfitted estimator that ``saved.parameters`` described: its lists were tuples.

    Raises
    ------
    UserError
        There is no such head.
    ValueError
        It has no such parameter.
    """
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in kept.items()}
    return head(name).make(seed).set_params(**settings)
