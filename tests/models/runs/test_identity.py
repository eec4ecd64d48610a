"""What makes two runs the same run, and two test splits the same questions."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from features.cache.embeddings import Embeddings
from models.runs.identity import PARTS, id_of, identity, in_order
from models.runs.identity import test_digest as digest_of_test
from models.runs.identity import test_digest_of as digest_before_there_are_embeddings

EARLIER = Path(__file__).parents[2] / "data" / "earlier"
IDS, LABELS = ("a/1.png", "b/2.png", "b/10.png"), np.array([0, 1, 1])


def embeddings(ids: Any = IDS, labels: Any = LABELS, names: Any = ("a", "b"), **dataset: Any) -> Any:
    """Embeddings of 5,000 training images, with this test split."""
    written = {
        "test/ids": np.array([row.encode() for row in ids]).tobytes(),
        "test/labels": np.asarray(labels, np.int64).tobytes(),
    }
    return SimpleNamespace(
        fingerprint="f" * 64,
        rows={"train": 5_000, "test": len(ids)},
        dataset={"name": "pets", "source": "/pets", "digest": "d", "note": "", "limit": None, **dataset},
        class_names=tuple(names),
        digest=lambda name: hashlib.sha256(written[name]).hexdigest(),
    )


class TestIdentity:
    def test_it_is_what_was_asked_for_and_of_what(self) -> None:
        found = identity(embeddings(), ["block5", "block3"], "ridge", 0, {"class_weight": "balanced"})
        assert found == {
            "head": "ridge",
            "seed": 0,
            "layers": ("block5", "block3"),
            "fingerprint": "f" * 64,
            "asked": {"alpha": 1000.0, "class_weight": "balanced"},
            "grid": {"alpha": [1e6, 3e5, 1e5, 3e4, 1e4, 3e3, 1e3, 3e2, 1e2, 1e1]},
        }

    @pytest.mark.parametrize(("head", "seed"), [("dense", 3), ("ExtraTreeClassifier", 3), ("ridge", 0)])
    def test_the_seed_is_part_of_it_where_the_head_is_random(self, head: str, seed: int) -> None:
        assert identity(embeddings(), ["block5"], head, 3)["seed"] == seed

    def test_values_of_ones_own_are_its_grid(self) -> None:
        found = identity(embeddings(), ["block5"], "ridge", 0, None, {"alpha": [0.5, 5.0]})
        assert found["grid"] == {"alpha": [0.5, 5.0]}


class TestTheName:
    RUN: ClassVar[dict[str, Any]] = {
        "head": "ridge",
        "seed": 0,
        "layers": ("block5",),
        "fingerprint": "f" * 64,
        "asked": {"alpha": 1000.0},
        "grid": {"alpha": [10.0, 1.0]},
    }

    @pytest.mark.parametrize("folder", sorted((EARLIER / "runs").glob("*-seed*")), ids=lambda path: path.name)
    def test_runs_of_before_keep_theirs(self, folder: Path) -> None:
        name, _, id = folder.name.rpartition("-")
        assert name
        assert id_of(json.loads((folder / "run.json").read_text())) == id

    @pytest.mark.parametrize(
        ("part", "other"),
        [
            ("head", "lda"),
            ("seed", 1),
            ("layers", ("block4",)),
            ("fingerprint", "e" * 64),
            ("asked", {"alpha": 2.0}),
            ("grid", {}),
        ],
    )
    def test_it_follows_from_every_part(self, part: str, other: Any) -> None:
        assert id_of({**self.RUN, part: other}) != id_of(self.RUN)

    def test_it_follows_from_nothing_else(self) -> None:
        assert set(PARTS) == set(self.RUN)
        assert id_of({**self.RUN, "chosen": {"alpha": 10.0}, "train_accuracy": 0.5}) == id_of(self.RUN)

    def test_layers_in_another_order_are_the_same_layers(self) -> None:
        one, other = ({**self.RUN, "layers": layers} for layers in (["b", "a", "c"], ("c", "b", "a")))
        assert in_order(one) == in_order(other) == {**self.RUN, "layers": ("a", "b", "c")}
        assert in_order({**one, "chosen": {}}) == in_order(one), "what was decided later is left out"


class TestTheTestSplit:
    def test_it_is_that_of_before(self) -> None:
        (cache,) = (EARLIER / "embeddings").glob("*.h5")
        (run,) = (EARLIER / "runs").glob("digits-centroid-*")
        assert digest_of_test(Embeddings(cache)) == json.loads((run / "run.json").read_text())["test_digest"]

    @pytest.mark.parametrize(
        "other",
        [
            {"digest": "e"},
            {"limit": 3},
            {"names": ("a", "c")},
            {"ids": IDS[::-1]},
            {"labels": [0, 1, 0]},
        ],
    )
    def test_other_questions_are_another_split(self, other: dict[str, Any]) -> None:
        assert digest_of_test(embeddings(**other)) != digest_of_test(embeddings())

    def test_where_the_images_lie_makes_no_difference(self) -> None:
        moved = embeddings(name="animals", source="/elsewhere", note="moved")
        moved.fingerprint = "e" * 64
        assert digest_of_test(moved) == digest_of_test(embeddings())

    @pytest.mark.parametrize("limit", [None, 3])
    def test_it_is_known_before_there_are_embeddings(self, limit: int | None) -> None:
        known = digest_before_there_are_embeddings("d", limit, ["a", "b"], IDS, LABELS.astype(np.int32))
        assert known == digest_of_test(embeddings(limit=limit))
