"""The numbers of a report, on groups so small that every answer is known by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any, ClassVar

import jsonschema
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, sem, t

from features.errors import UserError
from models.curve import Curve
from models.heads import HEADS, head
from models.ladder import Rung
from models.runs import Run
from reports import embedding_map, gathering, ladder
from reports.configurations import best_first
from reports.galleries import Gallery
from reports.gathering import Beside, state_of
from reports.neighbours import K, Neighbours
from reports.report import Group, build

ROOT = Path(__file__).parents[1]
NAMES = ("ant", "bee", "cat", "dog")
IMAGES, TRAIN = 200, 60
LABELS = np.arange(IMAGES) % 4
FINGERPRINT, DIGEST = "f" * 64, "d" * 64
SPEC = {
    "weights": "imagenet",
    "weights_sha256": "w" * 64,
    "image_size": 32,
    "preprocess": "imagenet",
    "precision": "float32",
    "mirror": False,
}
DATASET = {"name": "pets", "source": "pets", "digest": "d", "note": "", "limit": None}


def run(
    name: str,
    right: Iterable[int],
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    labels: NDArray[np.int64] = LABELS,
    validation: float = 0.5,
    **changes: Any,
) -> Run:
    """A run that has these test images right and calls any other the next class, always 70% sure.

    ``validation`` is its share of 100 validation images.
    """
    says = np.where(np.isin(np.arange(len(labels)), list(right)), labels, (labels + 1) % 4)
    known = np.arange(100) < round(100 * validation)
    return replace(
        Run(
            head=name,
            seed=seed,
            layers=("block5",),
            width=8,
            dataset=DATASET,
            class_names=NAMES,
            spec=SPEC,
            fingerprint=FINGERPRINT,
            test_digest=DIGEST,
            chosen={},
            sweep=[{"value": 1.0, "accuracy": validation, "loss": 1.0, "train_accuracy": validation}],
            history={},
            kept_epoch=None,
            seconds={"select": 3.0, "refit": 4.0, "predict": 0.05},
            train_rows=TRAIN,
            val_rows=np.arange(100),
            val_labels=np.zeros(100, np.int64),
            val_proba=probabilities(np.where(known, 0, 1)),
            test_labels=labels,
            test_proba=probabilities(says),
            **(head(name, settings).configuration(seed) if name in HEADS else {"grid": {}}),
        ),
        **changes,
    )


def probabilities(says: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(0.1 + 0.6 * np.eye(4)[says])


def group_of(*runs: Run, **beside: Any) -> Group:
    """The only group of these runs."""
    (group,) = build(runs, Beside(**beside)).groups
    return group


def wilson(correct: int) -> str:
    """Wilson's interval by his formula of 1927, as the answer spells it."""
    share, z2 = correct / IMAGES, 1.959964**2
    middle = (share + z2 / (2 * IMAGES)) / (1 + z2 / IMAGES)
    half = sqrt(z2 * (share * (1 - share) / IMAGES + z2 / (4 * IMAGES**2))) / (1 + z2 / IMAGES)
    return f"{middle - half:.1%} to {middle + half:.1%}"


def drawn_again(one: Iterable[int], other: Iterable[int]) -> list[float]:
    """The interval of a difference in accuracy, by drawing the images themselves with replacement."""
    rows = np.arange(IMAGES)
    difference = np.isin(rows, list(one)).astype(int) - np.isin(rows, list(other))
    drawn = difference[np.random.default_rng(1).integers(0, IMAGES, (4000, IMAGES))].mean(axis=1)
    return [float(end) for end in np.quantile(drawn, [0.025, 0.975])]


class Cache:
    """Embeddings in memory with a file of 1,234 bytes.

    A first pass was interrupted; the one that made the last 52 of 260 images took 30 s, the network 140 s
    in both.
    """

    dataset: ClassVar[dict[str, Any]] = {"digest": "d"}
    layers = ("block3", "block5")
    rows: ClassVar[dict[str, int]] = {"train": TRAIN, "test": IMAGES}

    def __init__(self, folder: Path) -> None:
        self.path = folder / "pets.h5"
        self.path.write_bytes(b"x" * 1234)
        self.fingerprint = FINGERPRINT
        self.provenance = {"seconds": 30.0, "images_in_this_pass": 52, "network_seconds": 140.0}
        rng = np.random.default_rng(0)
        self.vectors = {split: rng.normal(size=(count, 32)) for split, count in self.rows.items()}

    def labels(self) -> NDArray[np.int64]:
        return np.arange(TRAIN) // 15

    def ids(self, split: str) -> list[str]:
        return [f"{split}/{row}.png" for row in range(self.rows[split])]

    def matrix(self, split: str, layers: Sequence[str]) -> NDArray[np.float32]:
        return np.hstack([self.vectors[split].astype(np.float32) for _ in layers])

    def rows_of(self, split: str, layer: str, rows: Any) -> NDArray[np.float32]:
        return self.matrix(split, [layer])[rows]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


def alike(
    similar: Mapping[int, float], all_of_them: Iterable[int] = (), layer: str = "block4@2"
) -> Neighbours:
    """Test images whose nearest training image is so similar; and those whose neighbours all are.

    The neighbours of test image ``r`` are the training images ``r``, ``r + 7``, ``r + 14``, ...
    """
    similarities = np.tile(np.linspace(0.5, 0.1, K, dtype=np.float32), (IMAGES, 1))
    for row, similarity in similar.items():
        similarities[row, 0] = similarity
    similarities[list(all_of_them)] = 0.97
    rows = (np.arange(IMAGES)[:, None] + 7 * np.arange(K)) % TRAIN
    return Neighbours(layer, rows, similarities)


class TestOrder:
    @pytest.mark.parametrize(
        ("seeds", "order"),
        [
            ((190, 90), ["ridge", "dense", "dense"]),  # mean 140, below 150, though the best is above
            ((90, 190), ["ridge", "dense", "dense"]),
            ((140, 170), ["dense", "dense", "ridge"]),  # mean 155, though the first is below
            ((170, 140), ["dense", "dense", "ridge"]),
        ],
    )
    def test_of_several_seeds_the_mean_counts(self, seeds: tuple[int, int], order: list[str]) -> None:
        runs = [run("dense", range(count), seed) for seed, count in enumerate(seeds)]
        ordered = best_first([runs[1], run("ridge", range(150)), runs[0]])
        assert [each.head for each in ordered] == order
        assert [each.seed for each in ordered if each.head == "dense"] == [0, 1], "not by accuracy"
        group = group_of(runs[1], run("ridge", range(150)), runs[0])
        assert [entry.id for entry in group.entries] == [each.id for each in ordered]

    def test_the_largest_test_split_comes_first_and_each_has_its_looks(self) -> None:
        small = run("ridge", range(99), labels=LABELS[:100], test_digest="small")
        large = run("ridge", range(99), test_digest="large")
        groups = build([small, large], Beside(looks={"small": 5})).groups
        assert [(group.test_digest, group.test_images, group.looks) for group in groups] == [
            ("large", 200, 0),
            ("small", 100, 5),
        ]


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

    def test_of_more_than_twelve_configurations_eleven_others_are_compared(self) -> None:
        others = [run("knn", range(100 - k), settings={"k": k}) for k in range(1, 13)]
        group = group_of(*others, run("ridge", range(190)))
        assert "It is better than the next 11; than the next, knn (k 1), by 45.5 points (" in group.answer
        assert len(group.pairs) == 12 * 11 / 2
        assert others[-1].id not in {id for pair in group.pairs for id in (pair.first, pair.second)}


class TestPairs:
    def test_the_first_seeds_are_compared_best_first(self) -> None:
        dense = [run("dense", range(count), seed) for seed, count in ((7, 190), (3, 170), (5, 180))]
        group = group_of(run("lda", range(30)), *dense, run("ridge", range(100)))
        heads = {entry.id: (entry.head, entry.seed) for entry in group.entries}
        assert [(heads[pair.first], heads[pair.second]) for pair in group.pairs] == [
            (("dense", 3), ("ridge", 0)),
            (("dense", 3), ("lda", 0)),
            (("ridge", 0), ("lda", 0)),
        ]
        assert [(pair.first_only, pair.second_only) for pair in group.pairs] == [(70, 0), (140, 0), (70, 0)]
        assert [pair.difference for pair in group.pairs] == pytest.approx([0.35, 0.70, 0.35])
        assert [(entry.head, entry.seed) for entry in group.configurations] == [
            ("dense", 3),
            ("ridge", 0),
            ("lda", 0),
        ]


class TestSeeds:
    def test_the_interval_is_scipys_of_students_t(self) -> None:
        counts = {4: 150, 2: 166, 9: 140}
        runs = [run("dense", range(count), seed) for seed, count in counts.items()]
        (seeds,) = group_of(*runs, run("ridge", range(199))).seeds
        values = [count / IMAGES for count in counts.values()]
        assert seeds.name == "dense"
        assert seeds.ids == (runs[1].id, runs[0].id, runs[2].id), "by seed"
        assert seeds.mean == pytest.approx(mean(values))
        assert seeds.deviation == pytest.approx(stdev(values))
        assert (seeds.low, seeds.high) == pytest.approx(t.interval(0.95, 2, mean(values), sem(values)))

    def test_settings_are_told_apart_and_the_best_mean_comes_first(self) -> None:
        plain = [run("dense", range(100 + seed), seed) for seed in (0, 1)]
        small = [run("dense", range(150 + seed), seed, {"batch_size": 32}) for seed in (0, 1)]
        one, two = group_of(*plain, *small).seeds
        assert (one.name, one.mean) == ("dense (batch size 32)", pytest.approx(150.5 / IMAGES))
        assert (two.name, two.mean) == ("dense", pytest.approx(100.5 / IMAGES))

    def test_one_seed_has_no_spread(self) -> None:
        assert group_of(run("dense", range(100)), run("ridge", range(90))).seeds == ()


UNIT = {"layers": "block5", "preprocess": "imagenet", "image_size": 32}
STEPS = (
    Rung("the floor", UNIT, "centroid"),
    Rung("a side step", UNIT, "ridge", {"alpha": 1e5}, sibling=True),
    Rung("another", UNIT, "ridge", {"alpha": 1e3}, sibling=True),
    Rung("a better head", UNIT, "ridge"),
    Rung("more layers", UNIT | {"layers": "block3,block5"}, "ridge"),
)
RIGHT = (range(80), range(100, 140), range(90), range(20, 140), range(10, 150))


def climbed(places: Sequence[int] = range(5), **changes: Any) -> list[Run]:
    """A run on each of these steps."""
    return [
        run(step.head, RIGHT[place], settings=step.settings, **{"layers": layers_of(step), **changes})
        for place, step in enumerate(STEPS)
        if place in places
    ]


def layers_of(step: Rung) -> tuple[str, ...]:
    return tuple(step.features["layers"].split(","))


class TestLadder:
    @pytest.fixture(autouse=True)
    def steps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ladder, "RUNGS", STEPS)

    def test_each_gain_is_over_the_rung_it_stands_on_and_no_rung_stands_on_a_sibling(self) -> None:
        """80, 40, 90, 120 and 140 images right: the next three stand on the 80, the last on the 120."""
        runs = climbed()
        ladder = group_of(*reversed(runs)).ladder
        assert [(rung.title, rung.id) for rung in ladder] == [
            (step.title, each.id) for step, each in zip(STEPS, runs, strict=True)
        ]
        assert [rung.value for rung in ladder] == pytest.approx([0.40, 0.20, 0.45, 0.60, 0.70])
        assert [rung.gain for rung in ladder[1:]] == pytest.approx([-0.20, 0.05, 0.20, 0.10])
        for rung, one, other in zip(ladder[1:], (1, 2, 3, 4), (0, 0, 0, 3), strict=True):
            expected = drawn_again(RIGHT[one], RIGHT[other])
            assert [rung.gain_low, rung.gain_high] == pytest.approx(expected, abs=0.011), rung.title
        assert (ladder[0].gain, ladder[0].gain_low, ladder[0].gain_high) == (None, None, None)

    def test_a_gain_and_its_interval_are_those_of_the_pair(self) -> None:
        group = group_of(*climbed())
        (pair,) = [
            pair
            for pair in group.pairs
            if {pair.first, pair.second} == {group.ladder[place].id for place in (3, 4)}
        ]
        last = group.ladder[-1]
        assert pair.first == last.id
        assert (last.gain, last.gain_low, last.gain_high) == (pair.difference, pair.low, pair.high)

    def test_each_accuracy_has_the_interval_it_has_elsewhere(self) -> None:
        group = group_of(*climbed())
        for rung in group.ladder:
            assert group.entry(rung.id).accuracy == {"value": rung.value, "low": rung.low, "high": rung.high}

    def test_where_the_rung_below_was_not_climbed_no_gain_is_told(self) -> None:
        ladder = group_of(*climbed((0, 1, 4))).ladder
        assert [rung.title for rung in ladder] == ["the floor", "a side step", "more layers"]
        assert [rung.gain is None for rung in ladder] == [True, False, True]

    def test_two_rungs_are_no_ladder(self) -> None:
        assert group_of(*climbed((0, 3))).ladder == ()

    @pytest.mark.parametrize("name", ["precision", "weights"])
    def test_all_rungs_are_of_one_precision_and_one_set_of_weights(self, name: str) -> None:
        other = climbed(spec=SPEC | {name: "other"}, fingerprint="0" * 64)
        mine = climbed(range(4))
        ladder = group_of(*mine, *other).ladder
        assert [rung.id for rung in ladder] == [each.id for each in other]
        assert [rung.id for rung in group_of(*mine, *other[2:]).ladder] == [each.id for each in mine]

    def test_of_several_seeds_the_first_is_on_the_rung(self) -> None:
        """Not the one whose id comes first."""
        floor, *rest = climbed()
        seeds = sorted((replace(floor, seed=seed) for seed in range(9)), key=lambda each: each.id)
        later, first = next(two for two in combinations(seeds, 2) if two[0].seed > two[1].seed)
        assert group_of(later, first, *rest).ladder[0].id == first.id


class TestCosts:
    def costs(self, cache: Cache | None) -> dict[str, float | None]:
        beside = {} if cache is None else {"caches": {FINGERPRINT: cache}}
        (entry,) = group_of(run("ridge", range(9)), **beside).entries
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


class TestDuplicates:
    def of(self, found: Neighbours, size: int = 32) -> dict[str, Any]:
        spec = SPEC | {"image_size": size}
        runs = [run("lda", range(40), spec=spec), run("ridge", range(160), spec=spec)]
        duplicates = group_of(*runs, neighbours={FINGERPRINT: found}).duplicates
        assert duplicates
        assert (duplicates["name"], duplicates["accuracy"]) == ("ridge", 0.8)
        assert (duplicates["layer"], duplicates["threshold"]) == (found.layer, 0.94)
        return duplicates

    def test_they_are_counted_and_the_best_head_is_judged_without_them(self) -> None:
        """10 images that it has right and 20 that it has wrong: 150 of 170 are right without them."""
        rows = [*range(10), *range(180, 200)]
        found = self.of(alike(dict.fromkeys(rows, 0.95) | {50: 0.93}))
        assert (found["images"], found["share"]) == (30, pytest.approx(0.15))
        assert found["accuracy_without"] == pytest.approx(150 / 170)

    @pytest.mark.parametrize(
        ("layer", "size", "rough"),
        [("block4@2", 32, False), ("block4@2", 64, True), ("block5", 32, True), ("block5", 64, True)],
    )
    def test_the_count_is_rough_where_the_threshold_was_not_chosen(
        self, layer: str, size: int, rough: bool
    ) -> None:
        assert self.of(alike({3: 0.95}, layer=layer), size)["rough"] is rough

    def test_where_images_are_too_alike_nothing_is_counted(self) -> None:
        """Of 11 images, more than one in twenty, all neighbours are near-duplicates."""
        found = self.of(alike({50: 0.95}, all_of_them=range(11)))
        assert (found["images"], found["share"], found["accuracy_without"]) == (None, None, None)
        found = self.of(alike({50: 0.95}, all_of_them=range(10)))
        assert (found["images"], found["share"]) == (11, pytest.approx(11 / 200))
        assert found["accuracy_without"] == pytest.approx(149 / 189)

    def test_where_all_are_duplicates_nothing_is_left_to_judge(self) -> None:
        found = self.of(alike(dict.fromkeys(range(IMAGES), 0.99)))
        assert (found["images"], found["share"], found["accuracy_without"]) == (200, 1, None)

    def test_without_neighbours_there_is_no_count(self) -> None:
        other = alike({3: 0.95})
        assert group_of(run("ridge", range(9)), neighbours={"0" * 64: other}).duplicates is None


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
    def of(runs: Iterable[Run], **beside: Any) -> dict[str, Gallery]:
        return {gallery.key: gallery for gallery in group_of(*runs, **beside).galleries}

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
        assert doubted.about.startswith("All 3 heads that are asked say the same class")

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
        beside = {"neighbours": {FINGERPRINT: alike({130: 0.8})}, "caches": {FINGERPRINT: cache}}
        (item,) = self.of([ridge], **beside)["errors"].items
        assert (item["row"], item["id"], item["label"]) == (130, "test/130.png", "cat")
        assert [list(near.values())[:3] for near in item["neighbours"]] == [
            [10, "train/10.png", "ant"],
            [17, "train/17.png", "bee"],
            [24, "train/24.png", "bee"],
        ]
        assert [near["similarity"] for near in item["neighbours"]] == pytest.approx([0.8, 0.4, 0.3])
        assert list(item["neighbours"][0]) == ["row", "id", "label", "similarity"]
        (item,) = self.of([ridge], neighbours=beside["neighbours"])["errors"].items
        assert (item["id"], item["neighbours"]) == ("test image 130", []), "without a cache"


class TestLookingCloser:
    def test_the_map_tells_which_of_its_images_the_run_has_wrong(
        self, cache: Cache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(embedding_map, "POINTS", 40)
        beside = Beside(caches={FINGERPRINT: cache})  # type: ignore[dict-item]
        ridge = run("ridge", range(100), layers=("block5", "block3", "gone"))
        beside.look_closer(ridge)
        assert set(beside.maps) == {ridge.id}
        drawn = beside.maps[ridge.id]
        assert drawn["layers"] == ["block5", "block3"], "those that the cache has"
        assert len(drawn["rows"]) == 40
        assert drawn["wrong"] == [row >= 100 for row in drawn["rows"]]
        assert {True, False} == set(drawn["wrong"])
        assert drawn["labels"] == [row % 4 for row in drawn["rows"]]
        assert np.shape(drawn["pca"]) == np.shape(drawn["tsne"]) == (40, 2)
        assert group_of(ridge, run("lda", range(90)), maps=beside.maps).map == drawn

    def test_the_neighbours_are_those_of_the_cache(
        self, cache: Cache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(embedding_map, "POINTS", 8)
        beside = Beside(caches={FINGERPRINT: cache})  # type: ignore[dict-item]
        beside.look_closer(run("ridge", range(100)))
        found = beside.neighbours[FINGERPRINT]
        test, train = (
            vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            for vectors in (cache.vectors["test"], cache.vectors["train"])
        )
        assert np.array_equal(found.rows[:, 0], (test @ train.T).argmax(axis=1))

    @pytest.mark.parametrize("damaged", ["train", "test"])
    def test_of_a_damaged_cache_nothing_is_told(
        self, cache: Cache, damaged: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def ids(split: str) -> list[str]:
            if split == damaged:
                raise UserError(f"{split}/ids is damaged")
            return []

        monkeypatch.setattr(embedding_map, "POINTS", 8)
        monkeypatch.setattr(cache, "ids", ids)
        beside = Beside(looks={DIGEST: 1}, caches={FINGERPRINT: cache})  # type: ignore[dict-item]
        beside.look_closer(run("ridge", range(100)))
        assert beside == Beside(looks={DIGEST: 1})
        (line,) = capsys.readouterr().err.splitlines()
        assert line == f"note: {damaged}/ids is damaged; the report goes without neighbours and map"

    def test_without_a_cache_nothing_is_looked_at(self) -> None:
        beside = Beside()
        beside.look_closer(run("ridge", range(100)))
        assert beside == Beside()


class TestState:
    """What a report follows from: where any of it changes, so does the digest."""

    points: ClassVar[list[dict[str, Any]]] = [{"shots": 1, "images": 4, "accuracy": [0.5]}]

    def test_it_is_the_same_for_the_same(self) -> None:
        states = {state_of([run("ridge", range(9))], Beside(looks={DIGEST: 1})) for _ in range(2)}
        assert len(states) == 1

    def test_it_changes_with_looks_runs_curves_and_caches(self, cache: Cache) -> None:
        one, two = run("ridge", range(9)), run("lda", range(9))
        again = replace(one, seconds=one.seconds | {"refit": 5.0})
        more = [*self.points, {"shots": 2, "images": 8, "accuracy": [0.6]}]
        rows = {"1.0": np.arange(4)}
        remade = Cache(cache.path.parent)
        remade.provenance["seconds"] = 29.0
        states = [
            state_of([one], Beside(looks={DIGEST: 1})),
            state_of([one], Beside(looks={DIGEST: 2})),
            state_of([one, two], Beside(looks={DIGEST: 1})),
            state_of([again], Beside(looks={DIGEST: 1})),
            state_of([replace(one, command="make train")], Beside(looks={DIGEST: 1})),
            state_of([one], Beside(looks={DIGEST: 1}, curves={one.folder: Curve(one.folder, self.points)})),
            state_of([one], Beside(looks={DIGEST: 1}, curves={one.folder: Curve(one.folder, more)})),
            state_of([one], Beside(looks={DIGEST: 1}, curves={one.folder: Curve(one.folder, more, rows)})),
            state_of([one], Beside(looks={DIGEST: 1}, caches={FINGERPRINT: cache})),  # type: ignore[dict-item]
            state_of([one], Beside(looks={DIGEST: 1}, caches={FINGERPRINT: remade})),  # type: ignore[dict-item]
        ]
        assert len(set(states)) == len(states)

    def test_it_changes_where_the_images_go(self, tmp_path: Path) -> None:
        folder = tmp_path / "pets"
        folder.mkdir()
        ridge = run("ridge", range(9), dataset=DATASET | {"source": str(folder)})
        before = state_of([ridge], Beside())
        folder.rmdir()
        assert state_of([ridge], Beside()) != before

    @pytest.mark.parametrize("name", ["reports/report.py", "reports/templates/page.j2", "models/knn.py"])
    def test_it_changes_with_the_code(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        monkeypatch.setattr(gathering, "__file__", str(tmp_path / "reports" / "gathering.py"))
        states = set()
        for content in ("one", "two"):
            path.write_text(content)
            states.add(state_of([run("ridge", range(9))], Beside()))
        assert len(states) == 2


class TestEntries:
    def test_origins_are_told_once_with_the_number_of_their_runs(self) -> None:
        common = {"versions": {"numpy": "2.0"}, "processor": "a"}
        plans: list[dict[str, Any]] = [
            common,
            common | {"processor": "b"},
            common,
            common | {"versions": {"numpy": "2.1"}},
            common | {"spec": SPEC | {"precision": "float16"}},
            common | {"spec": SPEC | {"weights": "mine", "weights_sha256": "m"}},
            common | {"spec": SPEC | {"weights_sha256": "m"}},
            common | {"processor": "b"},
            common,
        ]
        runs = [run("knn", range(190 - k), settings={"k": k + 1}, **plan) for k, plan in enumerate(plans)]
        keys = ["weights", "weights_sha256", "precision", "processor", "versions", "runs"]
        origin = ["imagenet", SPEC["weights_sha256"], "float32", "a", {"numpy": "2.0"}, 3]
        assert group_of(*reversed(runs)).origins == [
            dict(zip(keys, values, strict=True))
            for values in (
                origin,
                [*origin[:3], "b", {"numpy": "2.0"}, 2],
                [*origin[:4], {"numpy": "2.1"}, 1],
                [*origin[:2], "float16", *origin[3:5], 1],
                ["mine", "m", *origin[2:5], 1],
                ["imagenet", "m", *origin[2:5], 1],
            )
        ]

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
        curve = Curve(two.folder, TestState.points)
        assert [entry.curve for entry in group_of(one, two, curves={two.folder: curve}).entries] == [
            [],
            TestState.points,
        ]


def test_a_report_in_which_no_part_is_empty_is_what_the_schema_says(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "RUNGS", STEPS)
    monkeypatch.setattr(embedding_map, "POINTS", 40)
    dense = [run("dense", range(count), seed) for seed, count in enumerate((190, 180))]
    runs = [*climbed(), *dense, run("vote", range(150), members={"a": 0.5, "b": 0.5}, sweep=[])]
    beside = Beside(
        looks={DIGEST: 9},
        curves={dense[0].folder: Curve(dense[0].folder, TestState.points)},
        caches={FINGERPRINT: cache},  # type: ignore[dict-item]
    )
    cache.vectors["test"][5] = cache.vectors["train"][3]
    beside.look_closer(dense[0])
    found = build(runs, beside)
    assert (found.level, found.draws) == (0.95, 2000)
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    schema = json.loads((ROOT / "docs" / "report.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(document)
    (group,) = document["groups"]
    for part in ("entries", "pairs", "seeds", "ladder", "galleries", "duplicates", "map"):
        assert group[part], part
    assert group["entries"][0]["curve"] == TestState.points
    assert {gallery["key"] for gallery in group["galleries"]} == {
        "errors",
        "disagreements",
        "labels",
        "duplicates",
    }
    assert all(len(item["neighbours"]) == 3 for gallery in group["galleries"] for item in gallery["items"])
    assert group["duplicates"]["images"] == 1
    assert group["ladder"][0]["gain"] is None
    assert len(group["ladder"]) == len(STEPS)
