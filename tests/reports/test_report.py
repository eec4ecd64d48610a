"""The numbers of a report, on groups so small that every answer is known by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from models.curve import Curve
from reports import gains
from reports.context import embedding_map
from reports.context.gathering import ReportContext
from reports.context.neighbours import Neighbours
from reports.report import build
from tests.reports.test_gains import STEPS, climbed
from tests.small_group import (
    DIGEST,
    FINGERPRINT,
    IMAGES,
    LABELS,
    POINTS,
    SPEC,
    Cache,
    alike,
    evaluated,
    group_of,
    run,
)

ROOT = Path(__file__).parents[2]


class TestGroups:
    def test_the_largest_test_split_comes_first_and_each_has_its_looks(self) -> None:
        small = run("ridge", range(99), labels=LABELS[:100], test_digest="small")
        large = run("ridge", range(99), test_digest="large")
        groups = build([small, large], ReportContext(looks={"small": 5})).groups
        assert [(group.test_digest, group.test_images, group.looks) for group in groups] == [
            ("large", 200, 0),
            ("small", 100, 5),
        ]

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


class TestEvaluations:
    def test_they_stand_by_the_rank_of_their_runs_with_name_sentence_and_looks(self) -> None:
        ridge, lda = run("ridge", range(150)), run("lda", range(160))
        found = [evaluated(each, test_digest=digest * 64) for each in (ridge, lda) for digest in "ab"]
        looks = {"a" * 64: 3}
        group = group_of(ridge, lda, evaluations=found, looks=looks)
        assert [(each["name"], each["on"], each["looks"]) for each in group.evaluations] == [
            ("lda", "zoo aaaaaa", 3),
            ("lda", "zoo bbbbbb", 1),
            ("ridge", "zoo aaaaaa", 3),
            ("ridge", "zoo bbbbbb", 1),
        ], "two states of one folder are told apart"
        assert all(each["sentence"].startswith(f"On {each['on']}, ") for each in group.evaluations)
        (alone,) = group_of(ridge, evaluations=found[:1]).evaluations
        assert alone["on"] == "zoo"

    def test_those_of_other_runs_are_not_the_groups(self) -> None:
        ridge, lda = run("ridge", range(150)), run("lda", range(160))
        found = evaluated(ridge)
        assert group_of(lda, evaluations=[found]).evaluations == ()


class TestShared:
    def test_what_all_entries_share_is_said_once_and_the_rest_of_each(self) -> None:
        big = SPEC | {"image_size": 64, "mirror": True}
        group = group_of(run("ridge", range(90)), run("ridge", range(80), spec=big, seed=1))
        assert group.shared == (
            "vgg16, block5, imagenet preprocessing, float32, imagenet weights, trained on 60 images"
        )
        assert [group.embedding(entry) for entry in group.entries] == ["32 px", "64 px, with mirror images"]

    def test_of_one_embedding_nothing_is_left_to_tell(self) -> None:
        group = group_of(run("ridge", range(90)), run("lda", range(80)))
        assert group.shared.startswith("vgg16, block5, 32 px, ") and "seed 0" in group.shared
        assert {group.embedding(entry) for entry in group.entries} == {""}

    def test_of_several_networks_head_network_and_size_are_a_name(self) -> None:
        """And no more where that is enough: layers and weights follow from the network."""
        other = SPEC | {"backbone": "resnet50", "image_size": 64, "weights": "custom:1"}
        runs = [
            run("ridge", range(90)),
            run("ridge", range(80), spec=other, layers=("stage4",), fingerprint="a" * 64),
            run("ridge", range(70), spec=other, layers=("stage5",), fingerprint="b" * 64),
            run("lda", range(60), spec=other, layers=("stage4",), fingerprint="a" * 64),
        ]
        group = group_of(*runs)
        assert [entry.name for entry in group.entries] == [
            "ridge (vgg16, 32 px)",
            "ridge (resnet50, stage4, 64 px)",
            "ridge (resnet50, stage5, 64 px)",
            "lda (resnet50, 64 px)",
        ]
        assert group.answer.startswith("ridge (vgg16, 32 px) has the highest test accuracy")


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


def test_a_report_in_which_no_part_is_empty_is_what_the_schema_says(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gains, "RUNGS", STEPS)
    monkeypatch.setattr(embedding_map, "POINTS", 40)
    dense = [run("dense", range(count), seed) for seed, count in enumerate((190, 180))]
    runs = [*climbed(), *dense, run("vote", range(150), members={"a": 0.5, "b": 0.5}, sweep=[])]
    context = ReportContext(
        looks={DIGEST: 9},
        curves={dense[0].folder: Curve(dense[0].folder, POINTS)},
        caches={FINGERPRINT: cache},  # type: ignore[dict-item]
        evaluations=[evaluated(each) for each in runs[:2]],
    )
    cache.vectors["test"][5] = cache.vectors["train"][3]
    context.look_closer(dense[0])
    found = build(runs, context)
    assert (found.level, found.draws) == (0.95, 2000)
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    schema = json.loads((ROOT / "docs" / "report.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(document)
    (group,) = document["groups"]
    for part in ("entries", "pairs", "seeds", "ladder", "galleries", "duplicates", "evaluations", "map"):
        assert group[part], part
    assert group["entries"][0]["curve"] == POINTS
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
