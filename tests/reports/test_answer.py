"""The answer on top of a report says what its numbers say."""

from __future__ import annotations

import re
from math import sqrt
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from reports.answer import elsewhere
from tests.small_group import IMAGES, drawn_again, evaluated, group_of, run


def wilson(correct: int) -> str:
    """Wilson's interval by his formula of 1927, as the answer spells it."""
    share, z2 = correct / IMAGES, 1.959964**2
    middle = (share + z2 / (2 * IMAGES)) / (1 + z2 / IMAGES)
    half = sqrt(z2 * (share * (1 - share) / IMAGES + z2 / (4 * IMAGES**2))) / (1 + z2 / IMAGES)
    return f"{middle - half:.1%} to {middle + half:.1%}"


class TestAnswer:
    def test_a_head_alone_has_its_accuracy_and_wilsons_interval(self) -> None:
        answer = group_of(run("ridge", range(160))).answer
        assert answer == "ridge has the highest test accuracy: 80.0% (95% interval 73.9% to 85.0%)."
        assert wilson(160) == "73.9% to 85.0%"

    def test_a_head_that_is_better_than_every_other_is_told_by_how_much_it_beats_the_next(self) -> None:
        """60 images that the next has wrong, of 200, and none the other way: a binomial's quantiles."""
        floor = run("centroid", range(40), validation=0.9)
        match = re.fullmatch(
            r"ridge has the highest test accuracy: 80\.0% \(95% interval 73\.9% to 85\.0%\)\. It is better "
            r"than every other head here; than the next, lda, by 30\.0 points \(([\d.]+) to ([\d.]+)\)\. "
            r"Validation alone would choose centroid, at 20\.0% on test\.",
            group_of(floor, run("ridge", range(160)), run("lda", range(100))).answer,
        )
        assert match
        expected = 100 * binom.ppf([0.025, 0.975], IMAGES, 0.3) / IMAGES
        assert [float(end) for end in match.groups()] == pytest.approx(expected, abs=1)

    def test_heads_that_are_not_distinguishable_are_named_and_no_other(self) -> None:
        group = group_of(run("ridge", range(160)), run("lda", range(157)), run("centroid", range(40)))
        assert group.answer == (
            "ridge has the highest test accuracy: 80.0% (95% interval 73.9% to 85.0%). "
            "On this test set it is not distinguishable from lda. "
            "Validation alone chooses it too, level with centroid, lda."
        )

    @pytest.mark.parametrize(
        ("others", "listed"), [(4, "lda, svm, knn, logistic"), (6, "lda, svm, knn, logistic and 2 more")]
    )
    def test_at_most_four_names_are_listed(self, others: int, listed: str) -> None:
        names = ["lda", "svm", "knn", "logistic", "centroid", "dense"][:others]
        runs = [run(name, range(159 - place)) for place, name in enumerate(names)]
        assert f"not distinguishable from {listed}. Val" in group_of(run("ridge", range(160)), *runs).answer

    def test_where_the_means_first_seed_is_worse_it_is_said(self) -> None:
        """100 and 200 of 200 images: 75% in the mean, 0.5 / sqrt(2) around it; ridge beats the first."""
        runs = [run("dense", range(100), 0), run("dense", range(200), 1)]
        ridge = run("ridge", range(140), validation=0.6)
        assert group_of(ridge, *runs).answer == (
            "dense has the highest test accuracy: 75.0%, the mean of 2 seeds (standard deviation 35.4 "
            f"points; 95% interval {wilson(150)}). Its first seed, which paired tests take, is worse than "
            "ridge. Validation alone would choose ridge, at 70.0% on test."
        )
        answer = group_of(ridge, run("lda", range(101)), *runs).answer
        assert (
            "is worse than ridge. On this test set it is not distinguishable from lda. Validation" in answer
        )

    def test_where_seeds_are_compared_the_difference_is_of_the_first_ones(self) -> None:
        """The means are 180 and 120, the first seeds 190 and 120."""
        runs = [run("dense", range(190), 0), run("dense", range(170), 1), run("ridge", range(120))]
        answer = group_of(*runs).answer
        match = re.search(r"than the next, ridge, by 35\.0 points \(([\d.]+) to ([\d.]+), first s", answer)
        assert match
        low, high = (float(end) / 100 for end in match.groups())
        assert [low, high] == pytest.approx(drawn_again(range(190), range(120)), abs=0.011)
        assert answer.startswith("dense has the highest test accuracy: 90.0%, the mean of 2 seeds (")
        assert f"95% interval {wilson(180)})" in answer, "of the mean"
        assert answer.endswith("Validation alone chooses it too, level with ridge.")

    def test_first_seeds_are_spoken_of_only_where_one_of_the_two_has_several(self) -> None:
        ridge, dense = run("ridge", range(190)), [run("dense", range(40), seed) for seed in (0, 1)]
        assert ", first seeds)" in group_of(ridge, *dense).answer
        assert "first seeds" not in group_of(ridge, run("lda", range(100)), *dense).answer

    def test_validation_chooses_by_the_mean_of_seeds_too(self) -> None:
        """0.70 and 0.86 are 0.78 in the mean, less than 0.80; 0.74 and 0.90 are more."""
        ridge, low, high = run("ridge", range(160), validation=0.8), range(100), range(140)
        seeds = [run("dense", low, 0, validation=0.70), run("dense", high, 1, validation=0.86)]
        assert group_of(ridge, *seeds).answer.endswith(" Validation alone chooses it too.")
        seeds = [run("dense", low, 0, validation=0.74), run("dense", high, 1, validation=0.90)]
        assert group_of(ridge, *seeds).answer.endswith(
            " Validation alone would choose dense, at 60.0% on test."
        )

    def test_a_vote_on_top_did_not_compete_on_validation(self) -> None:
        taken = run("vote", range(180), validation=0.95, members={"a": 0.5, "b": 0.5}, sweep=[])
        ridge = run("ridge", range(120), validation=0.9)
        assert group_of(taken, ridge).answer.endswith(
            " Validation alone would choose ridge, at 60.0% on test. Votes do not compete on validation, as "
            "their weights were fitted there."
        )
        better = run("lda", range(190), validation=0.8)
        assert group_of(taken, ridge, better).answer.endswith("would choose ridge, at 60.0% on test.")

    def test_votes_alone_cannot_be_chosen_between(self) -> None:
        votes = [
            run("vote", range(count), members={"a": 1.0}, sweep=[], fingerprint=f"{count}" * 8)
            for count in (180, 90)
        ]
        answer = group_of(*votes).answer
        assert "Validation alone" not in answer
        assert "Votes do not compete on validation, as their weights were fitted there: there is" in answer

    def test_of_more_than_twelve_configurations_eleven_others_are_compared(self) -> None:
        others = [run("knn", range(100 - k), settings={"k": k}) for k in range(1, 13)]
        group = group_of(*others, run("ridge", range(190)))
        assert "It is better than the next 11; than the next, knn (k 1), by 45.5 points (" in group.answer
        assert len(group.pairs) == 12 * 11 / 2
        assert others[-1].id not in {id for pair in group.pairs for id in (pair.first, pair.second)}


class TestElsewhere:
    def of(self, right: int, **changes: Any) -> str:
        found = evaluated(run("ridge", range(150)), right) | {"name": "ridge", "on": "zoo"} | changes
        return elsewhere(found)

    def test_a_difference_that_chance_may_make_is_called_that(self) -> None:
        """40 of 50 images, against 113 of the 150 that are no dogs: Wilson's interval by his formula."""
        sentence = self.of(40)
        assert sentence.startswith(
            "On zoo, ridge has 80.0% of 50 images right (95% interval 67.0% to 88.8%), against 75.3% on its "
            "own test split, of the same classes: a difference of +4.7 points ("
        )
        assert sentence.endswith("), which chance alone may explain.")

    def test_one_that_is_clear_is_called_that(self) -> None:
        assert self.of(20).endswith("), which is more than chance explains.")

    @pytest.mark.parametrize(("p", "verdict"), [(0.04, "is more than chance"), (0.06, "chance alone may")])
    def test_of_the_same_images_mcnemars_test_decides(self, p: float, verdict: str) -> None:
        change = {"value": -0.1, "low": -0.2, "high": 0.0, "method": "paired", "p": p}
        change |= {"here_only": 2, "there_only": 7}
        assert (
            "on the same images of its own test split: a difference of -10.0 points (-20.0 to +0.0), "
            f"which {verdict}"
        ) in self.of(40, difference=change)

    def test_where_no_image_is_answered_otherwise_there_is_no_difference_to_speak_of(self) -> None:
        only = {"here_only": 0, "there_only": 0}
        change = {"value": 0.0, "low": 0.0, "high": 0.0, "method": "paired", "p": 1.0} | only
        assert self.of(40, difference=change).endswith("of its own test split: the very same are right.")

    def test_where_no_class_is_missing_classes_are_not_spoken_of(self) -> None:
        assert "of the same classes" not in self.of(40, absent_classes=[])

    def test_one_image_is_no_images(self) -> None:
        assert "of 1 image right" in self.of(40, images=1)


class TestUnequalClasses:
    def test_balanced_accuracy_is_named_where_classes_differ_in_size_by_more_than_two(self) -> None:
        labels = np.repeat([0, 1, 2, 3], [90, 50, 40, 20])
        answer = group_of(run("ridge", range(160), labels=labels)).answer
        mean = (1 + 1 + 20 / 40 + 0 / 20) / 4  # the recall of each class
        assert (
            " Classes have 20 to 90 test images; its balanced accuracy, the mean recall of the classes, is "
            f"{mean:.1%} (" in answer
        )

    def test_where_they_do_not_it_is_not(self) -> None:
        labels = np.repeat([0, 1, 2, 3], [60, 60, 50, 30])
        assert "balanced" not in group_of(run("ridge", range(160), labels=labels)).answer
