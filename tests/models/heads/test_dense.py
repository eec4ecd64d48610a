"""The Keras head watches the validation split it is given, and repeats what it chose."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from features.backend import tensorflow
from models.heads.dense import DenseHead
from models.heads.epochs import drop
from models.heads.registry import head
from models.runs.identity import id_of, identity
from tests.models.heads.test_heads import blobs


def small(**changes: object) -> DenseHead:
    return DenseHead(hidden=(16,), epochs=6, batch_size=32).set_params(**changes)


def test_history_has_four_curves_of_equal_length() -> None:
    X, y = blobs(rows=300)
    fitted = small(patience=None).fit(X[:200], y[:200], validation_data=(X[200:], y[200:]))
    assert set(fitted.history_) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert {len(curve) for curve in fitted.history_.values()} == {6}


def test_curves_are_measured_without_dropout_or_smoothing() -> None:
    X, y = blobs(rows=300)
    fitted = small(dropout=0.9, patience=None).fit(X, y, validation_data=(X, y))
    assert fitted.history_["accuracy"] == fitted.history_["val_accuracy"], "same rows, same measure"
    np.testing.assert_allclose(fitted.history_["loss"], fitted.history_["val_loss"], rtol=1e-6)
    proba = fitted.predict_proba(X)
    kept = fitted.best_epoch_ - 1
    loss = -np.log(proba[np.arange(300), y]).mean()
    assert fitted.history_["val_loss"][kept] == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.2, 0.5, 0.999999])
@pytest.mark.parametrize("shape", [(2000, 100), (2001, 101)])
def test_the_share_that_rests_is_the_rate_and_the_mean_stays(rate: float, shape: tuple[int, int]) -> None:
    dropped = np.asarray(drop(np.ones(shape, np.float32), rate, [1, 2]))
    assert dropped.shape == shape
    error = 5 * (rate * (1 - rate) / dropped.size) ** 0.5  # standard deviations of a share
    assert (dropped == 0).mean() == pytest.approx(rate, abs=error + 2**-16)
    kept = dropped[dropped > 0]
    np.testing.assert_allclose(kept, 1 / (1 - min(rate, 1 - 2**-16)), rtol=2e-5)


def test_neighbours_and_seeds_rest_independently() -> None:
    ones = np.ones((1000, 101), np.float32)
    rests = np.asarray(drop(ones, 0.5, [1, 2])) == 0
    for moved in (np.roll(rests, 1, axis=1), np.roll(rests, 1, axis=0)):
        assert (rests == moved).mean() == pytest.approx(0.5, abs=0.01)
    again, other = (np.asarray(drop(ones, 0.5, seed)) == 0 for seed in ([1, 2], [1, 3]))
    assert (rests == again).all() and (rests == other).mean() == pytest.approx(0.5, abs=0.01)


def test_each_step_rests_other_units() -> None:
    X, y = blobs(rows=300)
    head = small(epochs=2, patience=None, input_dropout=0.0).fit(X, y)
    (layer,) = (layer for layer in head._network.layers if hasattr(layer, "rate"))
    drawn = np.asarray(layer.seed_generator.state)[1]
    assert drawn == 2 * (300 // 32), "one seed a step, of both epochs"


def test_training_does_not_lean_on_autograph(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Python 3.13 it fails where warnings are errors; loops are written as graphs instead."""
    tf = tensorflow()
    function = tf.function

    def as_it_stands(*given: Any, autograph: bool = True, **more: Any) -> Any:
        assert not autograph
        return function(*given, autograph=False, **more)

    monkeypatch.setattr(tf, "function", as_it_stands)
    X, y = blobs(rows=60)
    small(epochs=1).fit(X, y)


def test_it_stops_early_and_keeps_the_best_epoch() -> None:
    X, y = blobs(rows=300)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 3, 100)  # validation labels nothing can learn
    fitted = small(epochs=50, patience=2).fit(X[:200], y[:200], validation_data=(X[200:], noise))
    accuracy = fitted.history_["val_accuracy"]
    assert len(accuracy) == fitted.best_epoch_ + 2 < 50
    assert fitted.best_epoch_ == int(np.argmax(accuracy)) + 1
    assert (fitted.predict(X[200:]) == noise).mean() == pytest.approx(max(accuracy))


@pytest.mark.parametrize("labels", [[1, 1], [0, 3], [0], [[0], [2]]], ids=str)
def test_validation_labels_that_were_not_trained_on_are_refused(labels: list[Any]) -> None:
    X, y = blobs(rows=30)
    y = np.where(y == 1, 0, y)  # classes 0 and 2: a label 1 lies between them
    with pytest.raises(ValueError, match="validation_data: expected 2 labels"):
        small().fit(X, y, validation_data=(X[:2], np.array(labels)))


def test_a_refit_of_n_epochs_is_the_first_n_of_the_whole_schedule() -> None:
    X, y = blobs(rows=300)
    watched = small(patience=None).fit(X, y, validation_data=(X, y))
    seen: list[float] = []
    small(patience=None).fit(
        X, y, validation_data=(X, y), on_epoch=lambda epoch, history: seen.append(history["loss"][-1])
    )
    stopped = small(stop_epoch=4, patience=None).fit(X, y, validation_data=(X, y))
    np.testing.assert_allclose(stopped.history_["loss"], watched.history_["loss"][:4], rtol=1e-4)
    assert len(seen) == 6


def test_the_scale_of_the_inputs_does_not_matter() -> None:
    X, y = blobs(rows=300)
    one, two = small().fit(X, y), small().fit(X * 1000 + 77, y)
    np.testing.assert_allclose(one.predict_proba(X), two.predict_proba(X * 1000 + 77), atol=1e-3)


def test_seeds_differ() -> None:
    X, y = blobs()
    one, two = small(random_state=1).fit(X, y), small(random_state=2).fit(X, y)
    assert not np.allclose(one.predict_proba(X), two.predict_proba(X))


def test_it_goes_through_pickle_for_joblib() -> None:
    X, y = blobs()
    fitted = small().fit(X, y)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_allclose(again.predict_proba(X), fitted.predict_proba(X), atol=1e-6)


def test_the_baseline_is_the_assignments() -> None:
    baseline = head("baseline").make(0)
    expected = {
        "hidden": (256,),
        "activation": "relu",
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "schedule": "exponential",
        "batch_size": 128,
        "epochs": 10,
        "batch_norm": False,
        "standardize": False,
        "dropout": 0.0,
        "label_smoothing": 0.0,
        "patience": None,
    }
    assert {name: baseline.get_params()[name] for name in expected} == expected


class TestAutomatic:
    """What depends on the number of training images, where nobody says what it is."""

    def test_many_images_get_what_every_number_got_before(self) -> None:
        expected = {"epochs": 12, "input_dropout": 0.2, "patience": 5}
        assert [DenseHead().automatic(rows) for rows in (50_000, 10**6)] == [expected] * 2

    def test_fewer_images_get_more_epochs_and_more_dropout(self) -> None:
        ways = [DenseHead().automatic(rows) for rows in (1, 500, 5_000, 15_000, 50_000)]
        for name in ("epochs", "input_dropout"):
            values = [way[name] for way in ways]
            assert values == sorted(values, reverse=True)
        assert ways[2] == {"epochs": 38, "input_dropout": 0.6, "patience": None}
        assert ways[0]["epochs"] == 100

    def test_few_validation_images_do_not_choose_among_many_epochs(self) -> None:
        X, y = blobs(rows=300)
        fitted = DenseHead(hidden=(4,)).fit(X[:200], y[:200], validation_data=(X[200:], y[200:]))
        assert len(fitted.history_["val_accuracy"]) == fitted.best_epoch_ == 100

    def test_what_is_said_stays(self) -> None:
        said = DenseHead(epochs=40, input_dropout=0.0, patience=None)
        assert said.automatic(500) == {"epochs": 40, "input_dropout": 0.0, "patience": None}
        assert DenseHead(epochs=40).automatic(500)["patience"] == 5

    def test_fit_decides_and_leaves_the_parameters_alone(self) -> None:
        X, y = blobs()
        automatic = DenseHead(hidden=(4,)).fit(X, y)
        decided = DenseHead(hidden=(4,), **automatic.automatic(len(X))).fit(X, y)
        assert automatic.epochs == "auto"
        assert automatic.best_epoch_ == decided.best_epoch_ == 100
        np.testing.assert_allclose(automatic.predict_proba(X), decided.predict_proba(X), atol=1e-4)

    @pytest.mark.parametrize(
        ("settings", "id"),
        [({}, "00b993c651d8"), ({"epochs": 40, "input_dropout": 0}, "b8ee01e8dd1f")],
    )
    def test_runs_of_before_on_many_images_are_found(self, settings: dict[str, Any], id: str) -> None:
        embeddings: Any = SimpleNamespace(fingerprint="f" * 64, rows={"train": 50_000})
        assert id_of(identity(embeddings, ("block5",), "dense", 0, settings)) == id

    def test_a_run_keeps_what_was_decided_for_all_its_images(self) -> None:
        embeddings: Any = SimpleNamespace(fingerprint="f" * 64, rows={"train": 5_000})
        asked = identity(embeddings, ("block5",), "dense", 0)["asked"]
        assert (asked["epochs"], asked["input_dropout"]) == (38, 0.6)
