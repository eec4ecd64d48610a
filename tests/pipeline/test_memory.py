"""``MEMORY`` on the command line: what is fitted out of core, what is refused, and what a run then needs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from features.backbones.extractor import VGG16
from models.runs.collection import load_all
from models.runs.saving import load
from models.storedrows import StoredRows
from tests.conftest import Project

LITTLE = ("--memory", "100KB")  # 40 training images of 1,024 values take 164 KB


@pytest.fixture
def computed(project: Project) -> Project:
    assert project("features")[0] == 0
    return project


def test_a_run_has_the_name_and_the_predictions_that_it_has_in_memory(computed: Project) -> None:
    code, whole, err = computed("train", "--head", "centroid")
    assert code == 0
    assert "out of core" not in err
    predicted = load(Path(whole.strip())).test_proba
    code, parts, err = computed("train", "--head", "centroid", "--force", *LITTLE)
    assert code == 0
    assert "40 training images are 0.0 GB" in err
    assert parts == whole
    run = load(Path(parts.strip()))
    assert abs(run.test_proba - predicted).max() < 1e-6
    assert run.warnings[-1].startswith("fitted out of core")


def test_neighbours_are_read_from_the_cache_and_asked_for_by_name(computed: Project) -> None:
    test = str(computed.images / "test")
    code, out, _ = computed("train", "--head", "knn", *LITTLE)
    assert code == 0
    assert (Path(out.strip()) / "head.npz").stat().st_size < 3_000
    code, predicted, _ = computed("predict", "--image", test, "--csv")
    assert (code, len(predicted.splitlines())) == (0, 13)
    code, _, err = computed("export", "--head", "knn", "--to", str(computed.out / "knn.joblib"))
    assert code == 2
    assert "cannot be exported: its training images stay in their cache" in err
    computed.cache.rename(computed.out / "elsewhere.h5")
    code, _, err = computed("predict", "--image", test)
    assert code == 2
    (line,) = (line for line in err.splitlines() if line.startswith("error"))
    assert "the head needs its training images, which stay in their cache" in line
    assert "has none of the fingerprint" in line
    assert "run: make features" in line


def first_pixels(self: Any, images: NDArray[np.uint8], advance: Any = None) -> dict[str, NDArray[np.float32]]:
    """Vectors of which no two are alike."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    return {layer: flat[:, :width] - 100 for layer, width in self.widths.items()}


class TestPasses:
    """Of 12 images, one a batch, with a ``knn`` whose 40 training images stay in their cache."""

    @pytest.fixture
    def passes(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> list[StoredRows]:
        monkeypatch.setattr(VGG16, "embed", first_pixels)
        project("features")
        assert project("train", "--head", "knn", *LITTLE)[0] == 0
        begun: list[StoredRows] = []
        each = StoredRows.__iter__

        def counted(self: StoredRows) -> Iterator[tuple[slice, NDArray[np.float32]]]:
            begun.append(self)
            return each(self)

        monkeypatch.setattr(StoredRows, "__iter__", counted)
        return begun

    def test_of_predict_are_one_for_as_many_images_as_fit(
        self, project: Project, passes: list[StoredRows]
    ) -> None:
        answers = []
        for memory, expected in ((LITTLE, 4), (("--memory", "20MB"), 1)):
            passes.clear()
            bad = project.images / "test" / "cat" / "bad.png"
            bad.write_bytes(b"no picture")
            code, out, err = project(
                "predict", "--image", str(project.images / "test"), "--csv", "--batch", "1", *memory
            )
            assert code == 1
            assert len(passes) == expected
            assert "keeps its training images in their cache, and reads them once for every " in err
            assert err.count("skipped: ") == 1
            answers.append(list(csv.DictReader(io.StringIO(out))))
        little, much = answers
        assert len(little) == 12
        for one, other in zip(little, much, strict=True):
            assert (one["image"], one["class"]) == (other["image"], other["class"])
            assert float(one["probability"]) == pytest.approx(float(other["probability"]), abs=1e-6)

    def test_of_evaluate_too(self, project: Project, passes: list[StoredRows]) -> None:
        given = ("--dataset", str(project.images), "--json", "--batch", "1")
        scores = []
        for memory, expected in ((LITTLE, 4), (("--memory", "20MB"), 1)):
            passes.clear()
            code, out, err = project("evaluate", *given, *memory)
            assert code == 0, err
            assert len(passes) == expected
            scores.append(json.loads(out))
        assert scores[0]["accuracy"] == scores[1]["accuracy"] == scores[0]["own_test"]["accuracy"]


def test_what_does_not_fit_is_named_with_its_bytes_and_stops_nothing_else(computed: Project) -> None:
    code, _, err = computed("train", "--head", "all", *LITTLE)
    assert code == 1
    failed = [line for line in err.splitlines() if line.startswith("failed: ")]
    assert [line.split()[1] for line in failed] == ["lda", "ridge", "svm", "logistic", "dense", "baseline"]
    assert "ridge needs at least 0.0 GB of memory (8 x 1,024 x 1,024 bytes of covariance" in failed[1]
    assert "a larger MEMORY= gives more" in failed[1]
    assert {run.head for run in load_all(computed.out / "runs")} == {"prior", "centroid", "knn"}


def test_a_curve_is_grown_within_it(computed: Project) -> None:
    computed("train", "--head", "centroid")
    _, whole, _ = computed("curve", "--head", "centroid")
    grown = Path(whole.strip()).read_bytes()
    Path(whole.strip()).unlink()
    code, parts, err = computed("curve", "--head", "centroid", *LITTLE)
    assert code == 0
    assert "they are read in blocks" in err
    assert parts == whole
    assert Path(parts.strip()).read_bytes() == grown


def test_a_report_leaves_out_a_map_that_does_not_fit_until_one_does(computed: Project) -> None:
    computed("train", "--head", "centroid")

    def beside(kind: str) -> list[bytes]:
        return [path.read_bytes() for path in computed.cache.parent.glob(f"*.{kind}*.npz")]

    code, _, err = computed("report")
    assert (code, "note: the map" in err) == (0, False)
    drawn = beside("map-")
    assert len(beside("neighbours")) == len(drawn) == 1
    for path in (*computed.cache.parent.glob("*.npz"), computed.out / "report" / "manifest.json"):
        path.unlink()
    code, _, err = computed("report", "--memory", "70KB")  # 6 bytes for each of 12 x 1,024 values are 74 KB
    assert code == 0
    assert "note: the map of 12 test images needs 0.0 GB of memory, and 0.0 GB may be taken" in err
    assert (len(beside("neighbours")), beside("map-")) == (1, [])
    _, _, err = computed("report")  # there is something new: a map
    assert "nothing new" not in err
    assert beside("map-") == drawn
    _, _, err = computed("report", "--memory", "70KB")
    assert "nothing new" in err


@pytest.mark.parametrize("stage", ["train", "curve", "report", "evaluate"])
def test_what_is_no_amount_of_memory_is_refused_before_any_work(project: Project, stage: str) -> None:
    code, out, err = project(stage, "--memory", "much")
    assert (code, out) == (2, "")
    assert err.startswith("error: MEMORY=much: expected bytes, such as 50GB")
