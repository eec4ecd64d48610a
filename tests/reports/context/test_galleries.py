"""Which images a report shows, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.runs.run import Run
from reports.context.galleries import Gallery
from tests.small_group import FINGERPRINT, IMAGES, Cache, alike, group_of, run


def calling(given: Run, calls: Mapping[int, tuple[float, float, float, float]]) -> Run:
    """The run, with these probabilities of ant, bee, cat and dog for some test images."""
    for row, proba in calls.items():
        given.test_proba[row] = proba
    return given


class TestGalleries:
    """Rows 0, 4, 8, ... are ants, 1, 5, 9, ... bees, then cats, then dogs."""

    @pytest.fixture
    def runs(self) -> list[Run]:
        """A vote that is right of every image, three heads that err, and the floor."""
        of_ridge = {
            10: (0.05, 0.04, 0.01, 0.90),  # a cat it calls a dog, very sure
            21: (0.10, 0.05, 0.75, 0.10),  # a bee it calls a cat
            3: (0.60, 0.10, 0.10, 0.20),  # a dog it calls an ant
            6: (0.25, 0.10, 0.25, 0.40),  # a cat it calls a dog, hardly sure
            14: (0.10, 0.10, 0.15, 0.65),  # a cat it calls a dog
            198: (0.10, 0.10, 0.72, 0.08),  # right
        }
        of_lda = {
            10: (0.20, 0.10, 0.20, 0.50),
            21: (0.10, 0.00, 0.10, 0.80),  # a dog
            6: (0.20, 0.18, 0.02, 0.60),
            14: (0.10, 0.10, 0.00, 0.80),
            198: (0.62, 0.10, 0.20, 0.08),  # a cat it calls an ant
            199: (0.90, 0.04, 0.04, 0.02),  # a dog it calls an ant; the others are 70% sure of theirs
        }
        of_knn = {
            10: (0.20, 0.10, 0.20, 0.50),
            21: (0.10, 0.20, 0.60, 0.10),
            6: (0.20, 0.18, 0.02, 0.60),
            14: (0.80, 0.10, 0.00, 0.10),  # an ant
        }
        ridge = calling(run("ridge", range(IMAGES)), of_ridge)
        lda = calling(run("lda", range(IMAGES)), of_lda)
        knn = calling(run("knn", range(190)), of_knn)
        vote = run("vote", range(IMAGES), members={"a": 0.5, "b": 0.5}, sweep=[])
        prior = replace(run("prior", ()), test_proba=np.tile([0.28, 0.24, 0.24, 0.24], (IMAGES, 1)))
        return [prior, knn, lda, ridge, vote]

    @staticmethod
    def of(runs: Iterable[Run], **context: Any) -> dict[str, Gallery]:
        return {gallery.key: gallery for gallery in group_of(*runs, **context).galleries}

    @staticmethod
    def rows(gallery: Gallery) -> list[int]:
        return [item["row"] for item in gallery.items]

    def test_errors_are_what_the_best_head_has_wrong_the_most_confident_first(self, runs: list[Run]) -> None:
        errors = self.of(runs)["errors"]
        assert (self.rows(errors), errors.total) == ([10, 21, 14, 3, 6], 5)
        assert "the best head (ridge)" in errors.about, "a vote only says what its members say"

    def test_disagreements_are_between_the_two_best_the_surest_of_both_first(self, runs: list[Run]) -> None:
        """Row 21: 0.75 and 0.80; row 199: 0.70 and 0.90; row 198: 0.72 and 0.62; row 3: 0.60 and 0.70."""
        split = self.of(runs)["disagreements"]
        assert (self.rows(split), split.total) == ([21, 199, 198, 3], 4)

    def test_labels_are_doubted_where_all_heads_agree_the_least_likely_label_first(
        self, runs: list[Run]
    ) -> None:
        """Row 6 has its label at 0.25, 0.02, 0.02, row 10 at 0.01, 0.20, 0.20; of 14 and 21 they differ.

        Neither the vote, which is right, nor the floor, which says ant, is asked.
        """
        doubted = self.of(runs)["labels"]
        assert (self.rows(doubted), doubted.total) == ([6, 10], 2)
        assert doubted.about.startswith("All 3 heads predict the same class")

    def test_each_head_that_is_asked_says_its_class_and_how_sure_it_is(self, runs: list[Run]) -> None:
        item = self.of(runs)["errors"].items[1]
        assert (item["label"], item["id"]) == ("bee", "test image 21")
        assert [(said["head"], said["class"]) for said in item["says"]] == [
            ("ridge", "cat"),
            ("lda", "dog"),
            ("knn", "cat"),
        ]
        assert [said["probability"] for said in item["says"]] == pytest.approx([0.75, 0.80, 0.60])

    def test_probabilities_are_the_calibrated_ones(self) -> None:
        """At temperature 2 their roots count: 0.8, 0.4, 0.4 and 0.2 are 1.8 together."""
        ridge = calling(run("ridge", range(IMAGES), temperature=2.0), {1: (0.64, 0.16, 0.16, 0.04)})
        (item,) = self.of([ridge])["errors"].items
        assert item["says"] == [{"head": "ridge", "class": "ant", "probability": pytest.approx(0.8 / 1.8)}]

    def test_five_heads_are_asked_the_best_ones(self) -> None:
        """All of the five call row 1 a cat; the sixth has it right."""
        names = ["ridge", "lda", "svm", "logistic", "knn"]
        runs = [run(name, set(range(199 - place)) - {1}) for place, name in enumerate(names)]
        doubted = self.of([run("centroid", range(150)), *runs])["labels"]
        assert doubted.items[0]["row"] == 1
        assert [said["head"] for said in doubted.items[0]["says"]] == names

    def test_seeds_are_asked_once(self) -> None:
        dense = [run("dense", range(190), seed) for seed in (0, 1)]
        item = self.of([*dense, run("ridge", range(180))])["errors"].items[0]
        assert [said["head"] for said in item["says"]] == ["dense (seed 0)", "ridge"]

    def test_twelve_are_shown_and_all_counted(self) -> None:
        """20 bees that it calls cats, the later the surer."""
        bees = range(1, 80, 4)
        calls = {row: (0.1, 0.3 - row / 400, 0.5 + row / 400, 0.1) for row in bees}
        errors = self.of([calling(run("ridge", range(IMAGES)), calls)])["errors"]
        assert (self.rows(errors), errors.total) == ([*reversed(bees)][:12], 20)

    def test_what_nothing_answers_is_left_out(self) -> None:
        assert self.of([run("ridge", range(IMAGES))]) == {}
        assert set(self.of([run("ridge", range(199))])) == {"errors"}, "a head alone disagrees with none"
        same = [run("ridge", range(199)), run("lda", range(199))]
        assert set(self.of(same)) == {"errors", "labels"}
        floor = [run("prior", range(9)), run("vote", range(9), members={"a": 1.0}, sweep=[])]
        assert self.of(floor) == {}

    def test_duplicates_come_most_similar_first_unless_all_are_alike(self) -> None:
        ridge = run("ridge", range(IMAGES))
        found = alike({9: 0.95, 4: 0.99, 7: 0.97, 2: 0.93})
        duplicates = self.of([ridge], neighbours={FINGERPRINT: found})["duplicates"]
        assert (self.rows(duplicates), duplicates.total) == ([4, 7, 9], 3)
        crowded = alike({}, all_of_them=range(11))
        assert self.of([ridge], neighbours={FINGERPRINT: crowded}) == {}

    def test_the_three_nearest_training_images_stand_beside_each(self, cache: Cache) -> None:
        """Of test image 130 they are 130, 137 and 144 less twice 60: 10, 17 and 24; 15 of each class."""
        ridge = run("ridge", set(range(IMAGES)) - {130})
        context = {"neighbours": {FINGERPRINT: alike({130: 0.8})}, "caches": {FINGERPRINT: cache}}
        (item,) = self.of([ridge], **context)["errors"].items
        assert (item["row"], item["id"], item["label"]) == (130, "test/130.png", "cat")
        assert [list(near.values())[:3] for near in item["neighbours"]] == [
            [10, "train/10.png", "ant"],
            [17, "train/17.png", "bee"],
            [24, "train/24.png", "bee"],
        ]
        assert [near["similarity"] for near in item["neighbours"]] == pytest.approx([0.8, 0.4, 0.3])
        assert list(item["neighbours"][0]) == ["row", "id", "label", "similarity"]
        (item,) = self.of([ridge], neighbours=context["neighbours"])["errors"].items
        assert (item["id"], item["neighbours"]) == ("test image 130", []), "without a cache"
