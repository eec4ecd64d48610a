"""Training by the command line: all heads, several seeds, votes, curves, and what is there already."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from features.cache.embeddings import Embeddings
from features.errors import UserError
from models import curve, selection
from models.curve import load as load_curve
from models.heads import moments, registry
from models.heads.registry import HEADS
from models.runs.collection import load_all
from models.runs.run import Run
from models.runs.saving import load, save
from models.trainsplit import TrainSplit
from models.vote import vote
from tests.conftest import Project
from tests.models.heads.test_heads import blobs
from tests.models.test_selection import Fake

pytestmark = pytest.mark.slow

QUICK = ("prior", "centroid", "knn", "ridge", "lda", "logistic")


@pytest.fixture
def trained(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """With embeddings, and without the Keras heads, which take seconds."""
    monkeypatch.setattr(registry, "HEADS", {name: HEADS[name] for name in QUICK})
    project("features")
    return project


def test_all_trains_each_head(trained: Project) -> None:
    code, out, err = trained("train", "--head", "all")
    assert code == 0, err
    assert [run.head for run in load_all(trained.out / "runs")] == sorted(QUICK)
    assert len(out.splitlines()) == len(QUICK)


def test_one_head_that_fails_does_not_stop_the_others(
    trained: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("a covariance that cannot be solved")

    monkeypatch.setattr(moments.LdaHead, "_solve", refuse)
    code, _, err = trained("train", "--head", "all")
    assert code == 1
    assert "failed: lda with seed 0: ValueError: a covariance that cannot be solved; traceback: " in err
    assert {run.head for run in load_all(trained.out / "runs")} == set(QUICK) - {"lda"}


def test_what_is_there_is_not_trained_again_unless_forced(trained: Project) -> None:
    _, first, _ = trained("train", "--head", "ridge")
    before = (Path(first.strip()) / "run.json").read_text()
    _, second, err = trained("train", "--head", "ridge")
    assert "already trained" in err
    assert second == first
    assert (Path(first.strip()) / "run.json").read_text() == before
    _, third, err = trained("train", "--head", "ridge", "--force")
    assert "already trained" not in err
    assert third == first
    _, _, err = trained("train", "--head", "ridge", "--layers", "block5")
    assert "already trained" not in err


class TestOrderOfLayers:
    """``LAYERS=a,b`` and ``b,a`` are one embedding."""

    def test_either_order_names_the_same_run(self, trained: Project) -> None:
        _, first, _ = trained("train", "--head", "ridge", "--layers", "block4,block5")
        code, second, err = trained("train", "--head", "ridge", "--layers", "block5,block4")
        assert (code, second) == (0, first)
        assert "ridge: already trained" in err

    @pytest.fixture
    def before(self, trained: Project) -> Run:
        """A run of before: its layers stand as they were named."""
        material = TrainSplit(Embeddings(trained.cache), ("block5", "block4"))
        run = selection.train(material, "ridge", 0)
        save(run, trained.out / "runs")
        return run

    def test_a_run_of_before_is_found_and_not_trained_again(self, trained: Project, before: Run) -> None:
        code, out, err = trained("train", "--head", "ridge")
        assert code == 0
        assert Path(out.strip()).name == before.folder
        assert "ridge: already trained" in err
        assert [run.layers for run in load_all(trained.out / "runs")] == [("block5", "block4")]

    def test_a_run_of_before_predicts_from_its_own_columns(self, trained: Project, before: Run) -> None:
        test = str(trained.images / "test")
        code, out, err = trained("predict", "--image", test, "--format", "json")
        assert code == 0, err
        found = [json.loads(line)["probability"] for line in out.splitlines()]
        assert found == pytest.approx(list(before.test_scaled.max(axis=1)), abs=1e-6)

    def test_a_run_of_before_grows_a_curve_votes_and_is_reported(self, trained: Project, before: Run) -> None:
        assert trained("curve", "--head", "ridge")[0] == 0
        assert load_curve(trained.out / "runs", before) is not None
        trained("train", "--head", "lda")
        assert trained("train", "--head", "vote")[0] == 0
        (taken,) = (run for run in load_all(trained.out / "runs") if run.members)
        assert taken.layers == ("block4", "block5")
        assert trained("report")[0] == 0
        (group,) = json.loads((trained.out / "report" / "report.json").read_text())["groups"]
        assert before.folder in [entry["folder"] for entry in group["entries"]]

    def test_a_vote_of_before_is_kept(self, trained: Project, before: Run) -> None:
        trained("train", "--head", "lda")
        runs = trained.out / "runs"
        earlier = replace(vote(load_all(runs)), layers=("block5", "block4"))
        save(earlier, runs)
        code, out, _ = trained("train", "--head", "vote")
        assert (code, Path(out.strip()).name) == (0, earlier.folder)
        assert (runs / earlier.folder).is_dir()


def test_seeds_make_runs_of_what_draws_and_one_of_what_does_not(project: Project) -> None:
    project("features")
    code, out, err = project("train", "--head", "baseline", "--seeds", "2", "--seed", "4")
    assert code == 0, err
    assert {run.seed for run in load_all(project.out / "runs")} == {4, 5}
    code, out, err = project("train", "--head", "ridge", "--seeds", "5")
    assert len(out.splitlines()) == 1
    assert "does not depend on the seed" in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--head", "ridge", "--seeds", "0"), "SEEDS=0: expected a number of runs"),
        (("--head", "ridge", "--seed", "-1"), "SEED=-1: expected 0 or more"),
        (("--head", "ridge", "--seed", "2147483647", "--seeds", "2"), "SEED=2147483647: expected 0 or more"),
        (("--head", "vote"), "a vote needs at least two runs"),
    ],
)
def test_what_cannot_be_trained_is_told_in_a_line(
    trained: Project, arguments: tuple[str, ...], expected: str
) -> None:
    code, _, err = trained("train", *arguments)
    assert code == 2
    assert err.strip().splitlines()[-1].startswith(f"error: {expected}")


class TestSet:
    def test_what_is_set_is_not_swept_and_is_part_of_the_run(self, trained: Project) -> None:
        code, out, err = trained("train", "--head", "ridge", "--set", "alpha=7")
        assert code == 0, err
        run = load(Path(out.strip()), with_head=True)
        assert run.asked == run.parameters == run.chosen == {"alpha": 7.0}
        assert run.grid == {"alpha": [7.0]}
        assert [row["value"] for row in run.sweep] == [7.0]
        assert not any("of its grid" in warning for warning in run.warnings)
        assert run.command.endswith("SET=alpha=7 HEAD=ridge")
        assert run.estimator.alpha == 7

    def test_what_is_not_set_is_swept_as_before(self, trained: Project) -> None:
        _, out, _ = trained("train", "--head", "knn", "--set", "k=3")
        run = load(Path(out.strip()))
        assert run.grid == {"k": [3], "temperature": list(HEADS["knn"].grid["temperature"])}
        assert run.parameters["k"] == 3

    def test_it_is_never_taken_for_the_head_as_it_is(self, trained: Project) -> None:
        given = [("--set", "alpha=7"), (), ("--set", "alpha=8"), ("--set", "alpha=7.0")]
        folders = []
        for more in given:
            code, out, err = trained("train", "--head", "ridge", *more)
            assert code == 0, err
            folders.append(out)
        assert len(set(folders)) == 3
        assert folders[3] == folders[0]
        assert "already trained" in err

    def test_predict_report_and_curve_find_it(self, trained: Project) -> None:
        trained("train", "--head", "knn")
        _, out, _ = trained("train", "--head", "knn", "--set", "temperature=0.3")
        folder = Path(out.strip()).name
        given = ("--head", "knn", "--set", "temperature=0.3")
        code, _, err = trained("predict", "--image", str(trained.images / "test"), *given)
        assert code == 0
        assert folder in err
        _, curves, err = trained("curve", *given)
        assert Path(curves.strip()).stem == folder
        run = load(trained.out / "runs" / folder)
        assert curve._estimator(run, 100).get_params() == {"k": run.chosen["k"], "temperature": 0.3}
        _, curves, _ = trained("curve", "--head", "knn")
        assert Path(curves.strip()).stem != folder, "without SET: the head as it is"
        code, _, err = trained("curve", "--head", "knn", "--set", "k=2")
        assert code == 2
        assert "make train" in err
        assert "SET=k=2" in err

    @pytest.mark.parametrize(
        ("head", "given", "message"),
        [
            ("ridge", "alfa=1", "SET: ridge has no parameter 'alfa': expected one of alpha"),
            ("logistic", "warm_start=False", "expected one of C, class_weight, max_iter, tol"),
            (
                "dense",
                "random_state=3",
                "dense has no parameter 'random_state': expected one of activation, ",
            ),
            ("prior", "C=1", "prior has no parameter 'C': it has none; leave SET= out"),
            ("ridge", "alpha", "'alpha' is not parameter=value; expected SET=learning_rate=0.1,epochs=40"),
            ("ridge", "alpha=1,", "'' is not parameter=value"),
            ("ridge", "alpha=1,alpha=2", "alpha occurs twice"),
            ("ridge", "alpha=x", "alpha=x: expected a number above 0"),
            ("logistic", "C=1e-300", "C=1e-300: expected a number from 1e-30, below 1e+30"),
            ("svm", "C=1e400", "C=1e400: expected a number from 1e-30, below 1e+30"),
            ("all", "alpha=1", "SET=alpha=1: parameters of one head, got HEAD=all"),
            ("vote", "alpha=1", "SET=alpha=1: parameters of one head, got HEAD=vote"),
        ],
    )
    def test_what_it_cannot_be_is_told_in_a_line_before_anything_is_read(
        self, project: Project, head: str, given: str, message: str
    ) -> None:
        code, _, err = project("train", "--head", head, "--set", given)
        assert code == 2
        (line,) = err.strip().splitlines()
        assert message in line

    def test_a_length_that_is_set_is_kept_to(self) -> None:
        settings = {"hidden": 8, "epochs": 3, "stop_epoch": 2, "batch_norm": False}
        fake: Any = Fake(*blobs(rows=200), train=150)
        run = selection.train(TrainSplit(fake, ("block5",)), "dense", 0, settings)
        assert run.chosen == {}
        assert run.kept_epoch == run.parameters["stop_epoch"] == run.estimator.best_epoch_ == 2
        assert run.asked["hidden"] == [8]

    def test_training_that_diverges_is_told_in_a_line(self) -> None:
        settings = {"learning_rate": 1e30, "epochs": 2}
        fake: Any = Fake(*blobs(rows=200), train=150)
        with pytest.raises(UserError, match=r"training diverged, .* expected a learning_rate below 1e\+30"):
            selection.train(TrainSplit(fake, ("block5",)), "baseline", 0, settings)


class TestVote:
    def runs(self) -> list[Run]:
        """Three runs: two that are right about different halves, one that knows nothing."""
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 3, 600)
        runs = []
        for number in range(3):
            proba = np.full((600, 3), 1 / 3)
            if number < 2:
                sure = rng.random(600) < 0.6
                proba[sure] = 0.05 + 0.85 * np.eye(3)[labels[sure]]
            run = Run(
                head=f"h{number}", seed=0, layers=("block5",), width=1, class_names=("a", "b", "c"),
                fingerprint="f", test_digest="t", chosen={}, grid={}, sweep=[], history={}, kept_epoch=None,
                seconds={"select": 1.0, "refit": 2.0, "predict": 3.0}, train_rows=1, val_rows=np.arange(600),
                val_labels=labels, val_proba=proba, test_labels=labels[::-1], test_proba=proba[::-1],
                dataset={"name": "d"}, spec={},
            )  # fmt: skip
            runs.append(run)
        return runs

    def test_it_takes_in_who_helps_and_is_better_than_each(self) -> None:
        runs = self.runs()
        run = vote(runs)
        assert set(run.members) == {runs[0].folder, runs[1].folder}
        assert sum(run.members.values()) == pytest.approx(1)
        assert run.val_accuracy > max(each.val_accuracy for each in runs)
        expected = sum(
            weight * part.test_scaled for part, weight in zip(runs, run.members.values(), strict=False)
        )
        np.testing.assert_allclose(run.test_proba, expected)

    def test_test_labels_do_not_decide_who_votes(self) -> None:
        runs = self.runs()
        for run in runs:
            run.test_labels = run.test_labels * 0
        assert vote(runs).members == vote(self.runs()).members

    def test_by_the_command_line(self, trained: Project) -> None:
        trained("train", "--head", "all")
        code, out, err = trained("train", "--head", "vote")
        assert code == 0, err
        document = json.loads((Path(out.strip()) / "run.json").read_text())
        assert document["members"]
        code, out, _ = trained("predict", "--run", "vote", "--image", str(trained.images / "test"))
        assert code == 0
        assert len(out.splitlines()) == 1 + 12

    def test_a_member_trained_again_asks_for_another_vote(self, trained: Project) -> None:
        trained("train", "--head", "all")
        _, out, _ = trained("train", "--head", "vote")
        _, _, err = trained("train", "--head", "vote")
        assert "already trained" in err
        one = trained.out / "runs" / max(load(Path(out.strip())).members.items(), key=lambda each: each[1])[0]
        member = load(one, with_head=True)
        member.test_proba = member.test_proba[:, ::-1]
        save(member, trained.out / "runs")
        code, _, err = trained("predict", "--run", "vote", "--image", str(trained.images / "test"))
        assert code == 2
        assert "a member was trained again; take the vote again" in err
        _, again, err = trained("train", "--head", "vote")
        assert "already trained" not in err
        assert again == out
        code, _, err = trained("predict", "--run", "vote", "--image", str(trained.images / "test"))
        assert code == 0, err

    def test_a_later_vote_takes_the_place_of_an_earlier(self, trained: Project) -> None:
        trained("train", "--head", "all")
        trained("train", "--head", "ridge", "--layers", "block5")
        trained("train", "--head", "lda", "--layers", "block5")
        trained("train", "--head", "vote")
        code, out, err = trained("train", "--head", "vote", "--layers", "block5")
        assert code == 0, err
        (run,) = [run for run in load_all(trained.out / "runs") if run.members]
        assert run.folder == Path(out.strip()).name
        assert run.layers == ("block5",)
        code, _, err = trained(
            "predict", "--head", "vote", "--layers", "block5", "--image", str(trained.images / "test")
        )
        assert code == 0, err


class TestCurve:
    def test_a_head_with_epochs_gets_enough_steps_on_few_images(self) -> None:
        parameters = {"epochs": 12, "stop_epoch": 10, "batch_size": 256}
        run: Any = SimpleNamespace(head="dense", seed=0, parameters=parameters)
        steps = {}
        for images in (10, 1_000, 45_000):
            estimator = curve._estimator(run, images)
            assert estimator.stop_epoch / estimator.epochs == 10 / 12, "the schedule keeps its shape"
            steps[images] = estimator.stop_epoch * max(images // 256, 1)
        assert steps == {10: 500, 1_000: 510, 45_000: 1750}

    def test_it_grows_and_is_kept(self, trained: Project) -> None:
        trained("train", "--head", "all")
        code, out, err = trained("curve", "--head", "all")
        assert code == 0, err
        assert len(out.splitlines()) == len(QUICK)
        (ridge,) = [run for run in load_all(trained.out / "runs") if run.head == "ridge"]
        curve = load_curve(trained.out / "runs", ridge)
        assert curve is not None
        assert [point["shots"] for point in curve.points] == [1, 2, 5, 10, 18]
        assert [len(point["accuracy"]) for point in curve.points] == [10, 10, 10, 10, 1]
        assert curve.points[-1]["images"] == 36, "train without its validation tenth"
        assert set(curve.rows["1.3"]) < set(curve.rows["5.3"]), "draws are nested"
        code, _, err = trained("curve", "--head", "ridge")
        assert "images per class" not in err, "what is there is not fitted again"
        ridge.parameters["alpha"] = 7.0
        assert load_curve(trained.out / "runs", ridge) is None, "it is of a run that chose otherwise"

    def test_validation_rows_are_never_drawn(self, trained: Project) -> None:
        trained("train", "--head", "ridge")
        trained("curve", "--head", "ridge")
        (ridge,) = load_all(trained.out / "runs")
        curve = load_curve(trained.out / "runs", ridge)
        assert curve is not None
        assert not set(np.concatenate(list(curve.rows.values()))) & set(ridge.val_rows)

    def test_every_cache_and_every_head_draw_the_same_images(self, tmp_path: Path) -> None:
        drawn = []
        X, y = blobs(rows=200)
        for head, vectors in (("ridge", X), ("centroid", 2 * X + 1)):
            material = TrainSplit(Fake(vectors, y, train=150), ("block5",))  # type: ignore[arg-type]
            run = selection.train(material, head, 0)
            drawn.append(curve.grow(material, run, tmp_path / head / "runs").rows)
        one, two = drawn
        counts = {1: 10, 2: 10, 5: 10, 10: 10, 25: 5}
        assert set(one) == set(two) == {f"{n}.{draw}" for n in counts for draw in range(counts[n])}
        assert all(np.array_equal(one[name], two[name]) for name in one)

    def test_without_a_run_it_says_which_command_is_missing(self, trained: Project) -> None:
        code, _, err = trained("curve", "--head", "ridge")
        assert code == 2
        assert "make train" in err
