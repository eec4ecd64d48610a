"""The ladder: every step from the baseline on is a run of its own, told from all others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from features.backbones.extractor import VGG16
from models import ladder
from models.heads import moments, registry
from models.heads.registry import HEADS, head
from models.ladder import FIXED, RUNGS, Rung, matches, network
from models.runs.collection import load_all
from models.runs.run import Run
from pipeline.__main__ import main
from tests.conftest import Project
from tests.models.heads.test_heads import blobs
from tests.models.test_selection import Fake, train

pytestmark = pytest.mark.slow

BLOCK5 = {"layers": "block5", "preprocess": "unit", "image_size": 32}
QUICK = (
    Rung("floor", BLOCK5, "centroid"),
    Rung("more penalty", BLOCK5, "ridge", {"alpha": 1e5}, sibling=True),
    Rung("ridge", BLOCK5, "ridge"),
    Rung("preprocessing", BLOCK5 | {"preprocess": "imagenet"}, "ridge"),
    Rung("layers", BLOCK5 | {"preprocess": "imagenet", "layers": "block3,block5"}, "ridge"),
)


def climb(project: Project, *more: str) -> tuple[int, list[Path], str]:
    given = ["--dataset", str(project.images), "--weights", project.weights, "--precision", "float32"]
    code = main(["ladder", "--out", str(project.out), *given, *more])
    captured = project._capsys.readouterr()
    return code, [Path(line) for line in captured.out.splitlines()], captured.err


@pytest.fixture
def quick(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(ladder, "RUNGS", QUICK)
    return project


class TestRungs:
    def test_each_is_a_network_and_a_head_that_exist(self) -> None:
        assert len({rung.title for rung in RUNGS}) == len(RUNGS)
        assert not RUNGS[0].sibling and not RUNGS[-1].sibling
        for rung in RUNGS:
            VGG16(**rung.features)
            head(rung.head, rung.settings)

    def test_three_passes_serve_them_all(self) -> None:
        passes = {str(network(rung)) for rung in RUNGS}
        assert len(passes) == 3
        for rung in RUNGS:
            assert set(rung.features["layers"].split(",")) <= set(network(rung)["layers"].split(","))

    def test_a_run_is_on_one_rung_alone(self) -> None:
        fake: Any = Fake(*blobs(rows=100), train=80)
        plain = train(fake, "centroid")
        for rung in RUNGS:
            run = _of(rung, plain)
            assert [other.title for other in RUNGS if matches(other, run)] == [rung.title]

    @pytest.mark.parametrize("seed", [0, 3])
    def test_seed_and_dataset_do_not_matter_but_settings_and_grids_do(self, seed: int) -> None:
        fake: Any = Fake(*blobs(rows=100), train=80)
        run = replace(_of(RUNGS[0], train(fake, "centroid"), seed), dataset={"name": "other"})
        assert matches(RUNGS[0], run)
        (logistic,) = [rung for rung in RUNGS if rung.head == "logistic" and rung.features == BLOCK5]
        default = head("logistic").make(0).C
        fixed = _of(replace(logistic, settings={"C": default}), run)
        assert not matches(logistic, fixed), "what is set is not swept, even where it is the default"


class TestStage:
    def test_every_rung_becomes_a_run_and_none_is_trained_twice(self, quick: Project) -> None:
        code, folders, err = climb(quick)
        assert code == 0, err
        assert f"rung 2 of {len(QUICK)}: more penalty" in err
        runs = load_all(quick.out / "runs")
        assert sorted(folder.name for folder in folders) == [run.folder for run in runs]
        for rung, folder in zip(QUICK, folders, strict=True):
            assert [run.folder for run in runs if matches(rung, run)] == [folder.name]
        assert len(list((quick.out / "embeddings").glob("*.h5"))) == 2, "one pass a network"
        (penal,) = [run for run in runs if run.grid == {"alpha": [1e5]}]
        assert penal.command.endswith(
            "LAYERS=block5 PREPROCESS=unit IMAGE_SIZE=32 SET=alpha=100000.0 HEAD=ridge"
        )
        code, again, err = climb(quick)
        assert (code, again) == (0, folders)
        assert err.count("already trained") == len(QUICK)
        assert "embed:" not in err

    def test_a_run_that_was_there_is_used(self, quick: Project) -> None:
        quick("features", "--layers", "block5", "--preprocess", "unit")
        code, out, _ = quick("train", "--layers", "block5", "--preprocess", "unit", "--head", "ridge")
        assert code == 0
        _, folders, err = climb(quick)
        assert str(folders[2]) == out.strip()
        assert err.count("already trained") == 1

    def test_one_rung_that_fails_does_not_stop_the_others(
        self, quick: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        solve = moments.RidgeHead._solve

        def refuse(self: Any, *given: Any) -> Any:
            if self.alpha == 1e5 and len(given[0].sums) == 512:
                raise ValueError("no such penalty")
            return solve(self, *given)

        monkeypatch.setattr(moments.RidgeHead, "_solve", refuse)
        code, folders, err = climb(quick)
        assert code == 1
        assert "failed: more penalty: ValueError: no such penalty; traceback: " in err
        assert len(folders) == 2, "the floor, and the rung of another width"

    def test_without_the_first_pass_it_ends_in_one_line(self, quick: Project) -> None:
        code, folders, err = climb(quick, "--dataset", "nowhere")
        assert (code, folders) == (2, [])
        assert err.strip().splitlines()[-1].startswith("error: unknown dataset 'nowhere'")

    def test_seeds_go_through(self, quick: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registry, "HEADS", {name: replace(HEADS[name], random=True) for name in HEADS})
        monkeypatch.setattr(ladder, "RUNGS", QUICK[:1])
        _, folders, _ = climb(quick, "--seeds", "2", "--seed", "4")
        assert [folder.name.split("-")[2] for folder in folders] == ["seed4", "seed5"]

    @pytest.mark.parametrize("name", FIXED)
    def test_what_it_sets_itself_is_refused(self, quick: Project, name: str) -> None:
        code, folders, err = climb(quick, f"--{name.replace('_', '-')}", "64")
        assert (code, folders) == (2, [])
        (line,) = err.strip().splitlines()
        assert line.startswith(f"error: {name.upper()}=64: the ladder sets it itself")


def _of(rung: Rung, like: Run, seed: int = 0) -> Run:
    """A run as this rung would be, with the predictions of another."""
    features = {name: rung.features[name] for name in ("preprocess", "image_size")}
    return replace(
        like,
        head=rung.head,
        seed=seed,
        layers=tuple(reversed(rung.features["layers"].split(","))),
        spec=like.spec | features,
        estimator=None,
        **head(rung.head, rung.settings).configuration(seed, like.train_rows),
    )
