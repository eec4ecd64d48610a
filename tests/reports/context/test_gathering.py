"""What lies beside the runs, and what a report follows from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.errors import UserError
from models.curve import Curve
from models.runs import looks
from models.runs.run import Run
from models.runs.saving import save
from reports.context import embedding_map, evaluations, gathering
from reports.context.gathering import ReportContext, gather, state_of
from tests.small_group import DATASET, DIGEST, FINGERPRINT, POINTS, Cache, evaluated, group_of, run


class TestLookingCloser:
    def test_the_map_tells_which_of_its_images_the_run_has_wrong(
        self, cache: Cache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(embedding_map, "POINTS", 40)
        context = ReportContext(caches={FINGERPRINT: cache})  # type: ignore[dict-item]
        ridge = run("ridge", range(100), layers=("block5", "block3", "gone"))
        context.look_closer(ridge)
        assert set(context.maps) == {ridge.id}
        drawn = context.maps[ridge.id]
        assert drawn["layers"] == ["block5", "block3"], "those that the cache has"
        assert len(drawn["rows"]) == 40
        assert drawn["wrong"] == [row >= 100 for row in drawn["rows"]]
        assert {True, False} == set(drawn["wrong"])
        assert drawn["labels"] == [row % 4 for row in drawn["rows"]]
        assert np.shape(drawn["pca"]) == np.shape(drawn["tsne"]) == (40, 2)
        assert group_of(ridge, run("lda", range(90)), maps=context.maps).map == drawn

    def test_the_neighbours_are_those_of_the_cache(
        self, cache: Cache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(embedding_map, "POINTS", 8)
        context = ReportContext(caches={FINGERPRINT: cache})  # type: ignore[dict-item]
        context.look_closer(run("ridge", range(100)))
        found = context.neighbours[FINGERPRINT]
        test, train = (
            vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            for vectors in (cache.vectors["test"], cache.vectors["train"])
        )
        assert np.array_equal(found.rows[:, 0], (test @ train.T).argmax(axis=1))

    @pytest.mark.parametrize("damaged", ["train", "test"])
    def test_of_a_damaged_cache_nothing_is_told(
        self, cache: Cache, damaged: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def ids(split: str, rows: Sequence[int]) -> list[str]:
            if split == damaged:
                raise UserError(f"{split}/ids is damaged")
            return []

        monkeypatch.setattr(embedding_map, "POINTS", 8)
        monkeypatch.setattr(cache, "ids", ids)
        context = ReportContext(looks={DIGEST: 1}, caches={FINGERPRINT: cache})  # type: ignore[dict-item]
        context.look_closer(run("ridge", range(100)))
        assert context == ReportContext(looks={DIGEST: 1})
        (line,) = capsys.readouterr().err.splitlines()
        assert line == f"note: {damaged}/ids is damaged; the report has no neighbours and no map"

    def test_without_room_for_the_map_there_are_neighbours(self, cache: Cache) -> None:
        context = ReportContext(caches={FINGERPRINT: cache})  # type: ignore[dict-item]
        context.look_closer(run("ridge", range(100)), "10KB")
        assert (set(context.neighbours), context.maps) == ({FINGERPRINT}, {})

    def test_without_a_cache_nothing_is_looked_at(self) -> None:
        context = ReportContext()
        context.look_closer(run("ridge", range(100)))
        assert context == ReportContext()


class TestLooks:
    """That lines are missing is said from what runs and scores keep of theirs."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return tmp_path / "runs"

    @pytest.fixture
    def saved(self, root: Path) -> Run:
        one = run("ridge", range(80))
        save(one, root)
        return one

    def test_all_that_are_noted_are_counted(
        self, root: Path, saved: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        found = gather([saved], root, root)
        assert (found.looks, found.looks_doubt) == ({DIGEST: 1}, "")
        assert capsys.readouterr().err == ""

    def test_a_last_line_that_is_gone_is_told_by_its_run(
        self, root: Path, saved: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (root / looks.FILE).write_bytes(b"")
        assert gather([saved], root, root).looks_doubt == "looks.jsonl lacks lines that were there"
        assert "may have been predicted more often" in capsys.readouterr().err

    def test_one_of_an_evaluation_is_told_by_its_count(self, root: Path, saved: Run) -> None:
        evaluations.save(root, saved, evaluated(saved))
        assert gather([saved], root, root).looks_doubt == "looks.jsonl lacks lines that were there"

    @pytest.mark.parametrize("damage", ["a folder", "not UTF-8"])
    def test_nothing_in_the_place_of_the_file_stops_a_report(
        self, root: Path, saved: Run, damage: str
    ) -> None:
        path = root / looks.FILE
        if damage == "a folder":
            path.unlink()
            path.mkdir()
        else:
            path.write_bytes(b"\xff\xfe\n" + path.read_bytes())
        assert gather([saved], root, root).looks_doubt


def of(runs: Sequence[Run], form: str = "csv", **context: Any) -> str:
    """The state of a report of these runs in this context."""
    return state_of(runs, ReportContext(**context), form)


class TestState:
    """What a report follows from: where any of it changes, so does the digest."""

    def test_it_is_the_same_for_the_same(self) -> None:
        states = {of([run("ridge", range(9))], looks={DIGEST: 1}) for _ in range(2)}
        assert len(states) == 1

    def test_it_changes_with_looks_runs_curves_scores_caches_and_the_form_of_the_csv(
        self, cache: Cache
    ) -> None:
        one, two = run("ridge", range(9)), run("lda", range(9))
        again = replace(one, seconds=one.seconds | {"refit": 5.0})
        more = [*POINTS, {"shots": 2, "images": 8, "accuracy": [0.6]}]
        rows = {"1.0": np.arange(4)}
        remade = Cache(cache.path.parent)
        remade.provenance["seconds"] = 29.0
        states = [
            of([one], looks={DIGEST: 1}),
            of([one], looks={DIGEST: 1}, form="spreadsheet"),
            of([one], looks={DIGEST: 2}),
            of([one], looks={DIGEST: 2}, looks_doubt="a line is gone"),
            of([one, two], looks={DIGEST: 1}),
            of([again], looks={DIGEST: 1}),
            of([replace(one, command="make train")], looks={DIGEST: 1}),
            of([one], looks={DIGEST: 1}, curves={one.folder: Curve(one.folder, POINTS)}),
            of([one], looks={DIGEST: 1}, curves={one.folder: Curve(one.folder, more)}),
            of([one], looks={DIGEST: 1}, curves={one.folder: Curve(one.folder, more, rows)}),
            of([one], looks={DIGEST: 1}, evaluations=[{"sha256": "a"}]),
            of([one], looks={DIGEST: 1}, evaluations=[{"sha256": "b"}]),
            of([one], looks={DIGEST: 1}, caches={FINGERPRINT: cache}),
            of([one], looks={DIGEST: 1}, caches={FINGERPRINT: remade}),
        ]
        assert len(set(states)) == len(states)

    def test_it_changes_where_the_images_go(self, tmp_path: Path) -> None:
        folder = tmp_path / "pets"
        folder.mkdir()
        ridge = run("ridge", range(9), dataset=DATASET | {"source": str(folder)})
        before = of([ridge])
        folder.rmdir()
        assert of([ridge]) != before

    @pytest.mark.parametrize(
        "name", ["reports/report.py", "reports/page/templates/page.j2", "models/heads/knn.py"]
    )
    def test_it_changes_with_the_code(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        monkeypatch.setattr(gathering, "__file__", str(tmp_path / "reports" / "context" / "gathering.py"))
        states = set()
        for content in ("one", "two"):
            path.write_text(content)
            states.add(of([run("ridge", range(9))]))
        assert len(states) == 2
