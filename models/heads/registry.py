"""Heads by name: Headroom's nine, scikit-learn's classifiers, and classes of other packages."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from features.errors import UserError
from features.progress import say
from models.heads import parameters, saved
from models.heads.base import BaseHead
from models.heads.refusal import Refused

FIXED = ("random_state", "warm_start")  # parameters that settings cannot change
WITHOUT_JOBS = ("LogisticRegression",)  # warns that n_jobs has no effect
NEEDS = "it needs an estimator to be built with"
LEFT_OUT = {  # classifiers of scikit-learn that cannot be heads, and why
    "CategoricalNB": "its inputs are categories, and it refuses values that it was not trained on",
    "ClassifierChain": NEEDS,
    "FixedThresholdClassifier": NEEDS,
    "MultiOutputClassifier": NEEDS,
    "OneVsOneClassifier": NEEDS,
    "OneVsRestClassifier": NEEDS,
    "OutputCodeClassifier": NEEDS,
    "PassiveAggressiveClassifier": "scikit-learn has deprecated it for SGDClassifier with learning_rate=pa1",
    "SelfTrainingClassifier": NEEDS,
    "StackingClassifier": f"{NEEDS}; head=vote takes the soft vote of runs",
    "TunedThresholdClassifierCV": NEEDS,
    "VotingClassifier": f"{NEEDS}; head=vote takes the soft vote of runs",
}


@dataclass(frozen=True)
class Head:
    """One entry of ``HEADS``.

    Attributes
    ----------
    make : builds the unfitted head from a seed; imports its module on demand.
    about : a description in one line.
    grid : the values of each swept parameter; numbers from the most regularised to the least.
    random : whether the seed changes the result.
    ordered : whether a sweep may end early once the optimum is passed; grids given by the user are tried
        completely.
    """

    make: Callable[[int], BaseHead]
    about: str
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    random: bool = False
    ordered: bool = True

    def make_for(self, seed: int, rows: int) -> BaseHead:
        """The unfitted head for a number of training images, with its ``auto`` parameters resolved."""
        estimator = self.make(seed)
        return estimator.set_params(**estimator.automatic(rows))  # type: ignore[no-any-return]

    def configuration(self, seed: int, rows: int) -> dict[str, Any]:
        """Parameters and grids before validation, for a number of training images."""
        return {
            "asked": saved.parameters(self.make_for(seed, rows)),
            "grid": {name: list(values) for name, values in self.grid.items()},
        }


def _prior(seed: int) -> BaseHead:
    from models.heads.moments import PriorHead

    return PriorHead()


def _centroid(seed: int) -> BaseHead:
    from models.heads.moments import CentroidHead

    return CentroidHead()


def _knn(seed: int) -> BaseHead:
    from models.heads.knn import KnnHead

    return KnnHead()


def _ridge(seed: int) -> BaseHead:
    from models.heads.moments import RidgeHead

    return RidgeHead()


def _lda(seed: int) -> BaseHead:
    from models.heads.moments import LdaHead

    return LdaHead()


def _logistic(seed: int) -> BaseHead:
    from models.heads.lbfgs import LogisticHead

    return LogisticHead(warm_start=True)  # the refit starts where the sweep ended


def _svm(seed: int) -> BaseHead:
    from models.heads.lbfgs import SvmHead

    return SvmHead(warm_start=True)


def _dense(seed: int) -> BaseHead:
    from models.heads.dense import DenseHead

    return DenseHead(random_state=seed)


def _baseline(seed: int) -> BaseHead:
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
    "prior": Head(
        _prior, "class frequencies of the training images, whatever the image (a trivial baseline)"
    ),
    "centroid": Head(_centroid, "the class whose mean embedding is nearest"),
    "knn": Head(
        _knn,
        "nearest neighbours by cosine similarity, more similar ones weighted more",
        {"k": (100, 50, 20, 10, 5), "temperature": (0.2, 0.1, 0.05, 0.02, 0.01, 0.005)},
    ),
    "lda": Head(
        _lda,
        "linear discriminant analysis with shrinkage",
        {"shrinkage": (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00003)},
    ),
    "ridge": Head(
        _ridge,
        "least squares with an L2 penalty, in closed form",
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


def head(
    name: str,
    settings: Mapping[str, Any] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
) -> Head:
    """The head of this name.

    Parameters
    ----------
    name : one of ``HEADS``, the class name of a scikit-learn classifier, or ``module:Class`` for any other
        class with scikit-learn's interface; importing the module runs its code.
    settings : constructor parameters that differ from the defaults; they are not swept.
    grid : one more parameter to sweep, with its values.

    Raises
    ------
    UserError
        There is no such head, it has no such parameter, or a value is invalid.
    """
    entry = known(name) or _imported(name)
    if settings:
        entry = with_settings(name, entry, settings)
    return with_grid(name, entry, grid, settings or {}) if grid else entry


def known(name: str) -> Head | None:
    """The head of this name if it is Headroom's or scikit-learn's, else None; runs no other code."""
    if name in HEADS or not re.fullmatch(r"[A-Z]\w*", name):
        return HEADS.get(name)
    return _scikit_learns(name)


@cache
def _scikit_learns(name: str) -> Head | None:
    from sklearn.utils import all_estimators

    from models.heads.estimator import EstimatorHead

    if name in LEFT_OUT:
        raise UserError(f"the classifier {name} cannot be a head: {LEFT_OUT[name]}")
    found = dict(all_estimators("classifier")).get(name)
    if found is None:
        return None
    about = " ".join((found.__doc__ or name).split("\n\n")[0].split()).rstrip(".")

    def make(seed: int) -> EstimatorHead:
        estimator = found()
        own = estimator.get_params(deep=False)
        jobs = {"n_jobs": -1} if "n_jobs" in own and name not in WITHOUT_JOBS else {}
        seeded = {"random_state": seed} if "random_state" in own else {}
        return EstimatorHead(estimator.set_params(**seeded, **jobs))

    return Head(make, f"scikit-learn's: {about}", random="random_state" in found().get_params(deep=False))


@cache
def _imported(name: str) -> Head:
    """The head ``module:Class``; runs the module's code, and prints that it does."""
    from models.heads.estimator import EstimatorHead

    module, colon, attribute = name.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise UserError(_unknown(name))
    say(f"head={name}: this runs the code of the module {module}")
    try:
        found = getattr(importlib.import_module(module), attribute)
        own = found().get_params(deep=False)
    except Exception as error:  # arbitrary code
        raise UserError(
            f"head={name}: {type(error).__name__}: {error}; expected a class of that module with "
            "scikit-learn's get_params, set_params, fit and predict that can be built without arguments"
        ) from error

    def make(seed: int) -> EstimatorHead:
        return EstimatorHead(found().set_params(**({"random_state": seed} if "random_state" in own else {})))

    return Head(make, f"the class {attribute} of {module}", random="random_state" in own)


def _unknown(name: str) -> str:
    """The message for an unknown name."""
    from sklearn.utils import all_estimators

    others = [other for other, _ in all_estimators("classifier") if other not in LEFT_OUT]
    near = difflib.get_close_matches(name, [*HEADS, *others], n=1, cutoff=0.7)
    meant = f" (did you mean {near[0]}?)" if near else ""
    return (
        f"unknown head {name!r}{meant}: expected one of {', '.join(HEADS)}; all "
        "or vote; a classifier of scikit-learn by the name of its class, such as LogisticRegression; or "
        "module:Class"
    )


def with_settings(name: str, entry: Head, settings: Mapping[str, Any]) -> Head:
    """The head ``entry``, called ``name``, with these parameters set and removed from its grids."""
    defaults = entry.make_for(0, 1).get_params(deep=False)  # each of the type that its values have
    known = [parameter for parameter in defaults if parameter not in FIXED]
    for parameter in settings:
        if parameter not in known:
            listed = f"expected one of {', '.join(known)}" if known else "it has none; leave settings= out"
            raise UserError(f"settings: {name} has no parameter {parameter!r}: {listed}")
        if not isinstance(settings[parameter], None | bool | int | float | str | tuple | list):
            raise UserError(
                f"settings: {parameter}={settings[parameter]}: expected a number, a word, None, or "
                "several of them in parentheses"
            )
    alike = parameters.like if name in HEADS else lambda value, _: value
    values = {parameter: alike(value, defaults[parameter]) for parameter, value in settings.items()}

    def make(seed: int) -> BaseHead:
        return entry.make(seed).set_params(**values)  # type: ignore[no-any-return]

    try:
        make(0).check()
    except Refused as error:
        raise UserError(f"settings: {error}") from None
    grid = {
        parameter: (values[parameter],) if parameter in values else tried
        for parameter, tried in entry.grid.items()
    }
    return replace(entry, make=make, grid=grid)


def with_grid(name: str, entry: Head, grid: Mapping[str, Sequence[Any]], settings: Mapping[str, Any]) -> Head:
    """The head ``entry`` with ``grid`` added to its grids, after validation of each value."""
    for parameter, values in grid.items():
        if parameter in settings:
            raise UserError(f"grid: {parameter} is set by settings= already; name it in one of the two")
        made = [with_settings(name, entry, {parameter: value}).make(0).get_params() for value in values]
        tried = tuple(dict.fromkeys(each[parameter] for each in made))
        tried = tuple(sorted(tried)) if parameters.on_a_scale(tried) else tried
        entry = replace(entry, grid={**entry.grid, parameter: tried}, ordered=False)
    return entry


def remade(name: str, seed: int, kept: Mapping[str, Any]) -> Any:
    """The unfitted estimator with parameters from ``saved.parameters``; lists become tuples.

    Raises
    ------
    UserError
        Neither Headroom nor scikit-learn has such a head.
    ValueError
        The head has no such parameter.
    """
    entry = known(name)
    if entry is None:
        raise UserError(_unknown(name))
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in kept.items()}
    return entry.make(seed).set_params(**settings)
