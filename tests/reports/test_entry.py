"""What a report says of one run."""

from __future__ import annotations

import numpy as np
import pytest

from models.curve import Curve
from tests.small_group import FINGERPRINT, POINTS, Cache, group_of, probabilities, run


class TestEntry:
    def test_confused_pairs_come_most_frequent_first_with_their_share_of_the_true_class(self) -> None:
        """100 ants of which 6 are called bees, 20 bees of which 4 cats, 10 cats of which 4 ants, a dog."""
        labels = np.repeat(np.arange(4), (100, 20, 10, 1))
        says = labels.copy()
        says[:6], says[100:104], says[120:124], says[130] = 1, 2, 0, 0
        (entry,) = group_of(run("ridge", (), labels=labels, test_proba=probabilities(says))).entries
        assert [tuple(pair.values()) for pair in entry.confused] == [
            ("ant", "bee", 6, 0.06),
            ("bee", "cat", 4, 0.2),
            ("cat", "ant", 4, 0.4),
            ("dog", "ant", 1, 1.0),
        ]
        assert list(entry.confused[0]) == ["true", "predicted", "images", "share"]

    def test_eight_confused_pairs_are_named_at_most(self) -> None:
        """Of 4 classes every pair both ways is confused: 12, the ``k``-th in ``k`` images."""
        pairs = [(true, said) for true in range(4) for said in range(4) if true != said]
        labels, says = (np.repeat(side, range(1, 13)) for side in np.array(pairs).T)
        (entry,) = group_of(run("ridge", (), labels=labels, test_proba=probabilities(says))).entries
        assert [pair["images"] for pair in entry.confused] == [12, 11, 10, 9, 8, 7, 6, 5]

    def test_a_head_is_judged_by_what_another_reaches_with_the_same_vectors(self) -> None:
        """Not by the same head, other layers, other embeddings or a vote, though they reach more."""
        ridge = run("ridge", range(90), validation=0.5)
        others = [
            run("lda", range(80), validation=0.90),
            run("svm", range(80), validation=0.70),
            run("ridge", range(80), validation=0.99, settings={"alpha": 10.0}),
            run("logistic", range(80), validation=0.98, layers=("block3", "block5")),
            run("logistic", range(80), validation=0.97, fingerprint="0" * 64),
            run("vote", range(80), validation=0.96, members={"a": 0.5, "b": 0.5}, sweep=[]),
        ]
        found = group_of(ridge, *others).entry(ridge.id).diagnosis
        assert found["verdict"] == "underfit"
        assert "another head reaches 0.900 on validation" in found["sentence"]

    def test_a_vote_was_not_trained(self) -> None:
        vote = run("vote", range(90), members={"a": 0.5, "b": 0.5}, train_accuracy=0.9, sweep=[])
        ridge = run("ridge", range(80), train_accuracy=0.8)
        group = group_of(vote, ridge)
        assert [entry.train_accuracy for entry in group.entries] == [None, 0.8]
        assert group.entry(vote.id).about == "soft vote of saved runs"

    def test_a_learning_curve_belongs_to_its_run(self) -> None:
        one, two = run("ridge", range(90)), run("lda", range(80))
        curve = Curve(two.folder, POINTS)
        assert [entry.curve for entry in group_of(one, two, curves={two.folder: curve}).entries] == [
            [],
            POINTS,
        ]


class TestCosts:
    def costs(self, cache: Cache | None) -> dict[str, float | None]:
        context = {} if cache is None else {"caches": {FINGERPRINT: cache}}
        (entry,) = group_of(run("ridge", range(9)), **context).entries
        assert entry.fit_seconds == entry.costs["fit_seconds"] == 3 + 4
        return entry.costs

    def test_extraction_is_the_networks_time_in_all_passes_and_not_in_the_last_alone(
        self, cache: Cache
    ) -> None:
        assert self.costs(cache)["extract_seconds"] == 140

    def test_bytes_are_those_of_the_file(self, cache: Cache) -> None:
        assert self.costs(cache)["cache_bytes"] == 1234

    def test_without_a_cache_neither_is_known(self) -> None:
        costs = self.costs(None)
        assert (costs["extract_seconds"], costs["cache_bytes"]) == (None, None)

    def test_prediction_is_told_for_1000_images(self) -> None:
        assert self.costs(None)["predict_seconds_per_1000"] == pytest.approx(0.25), "0.05 s for 200"
