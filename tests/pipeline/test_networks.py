"""Two networks in one OUT: each has its caches, runs and labels, and none is taken for the other."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from features.backbones.extractor import Extractor
from features.backbones.keras_applications import Application
from features.backbones.registry import BACKBONES, DEFAULT
from models.runs.collection import load_all
from tests import stand_in
from tests.conftest import Project

EMBED = Extractor.embed
OTHER = ["--backbone", "mobilenetv2", "--layers", "stage4,stage5"]


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random weights of another network, as Keras writes them."""
    from features.backend import tensorflow

    tensorflow()
    import keras

    keras.utils.set_random_seed(2)
    model = BACKBONES["mobilenetv2"].build(32)
    path = tmp_path_factory.mktemp("weights") / "other.weights.h5"
    model.save_weights(path)
    return str(path)


@pytest.mark.slow
def test_the_whole_job_with_two_networks(
    project: Project, other_weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default network is a stand-in, the other itself."""

    def embed(self: Extractor, *given: Any) -> Any:
        return (stand_in.embed if self.backbone.name == DEFAULT else EMBED)(self, *given)

    monkeypatch.setattr(Extractor, "embed", embed)
    load = cache(BACKBONES["mobilenetv2"].load)  # not once for each command
    monkeypatch.setattr(Application, "load", lambda _, path: load(path))
    other = [*OTHER, "--weights", other_weights]
    assert project("train", "--head", "ridge")[0] == 2, "nothing is cached yet"
    assert project("features")[0] == 0
    code, out, err = project("features", *other, weights=False)
    assert code == 0, err
    assert Path(out.strip()).name.startswith("pets-mobilenetv2-32px-imagenet-float32-")
    assert len(list((project.out / "embeddings").glob("*.h5"))) == 2
    code, again, err = project("features", *other, weights=False)
    assert (code, again) == (0, out)
    assert "cached and verified" in err

    assert project("train", "--head", "ridge")[0] == 0
    assert project("train", "--head", "ridge", *other, weights=False)[0] == 0
    assert project("train", "--head", "centroid", *other, weights=False)[0] == 0
    assert {run.spec["backbone"] for run in load_all(project.out / "runs")} == {"vgg16", "mobilenetv2"}

    code, _, err = project("verify", *other, weights=False)
    assert code == 0, err

    assert project("report")[0] == 0
    (group,) = json.loads((project.out / "report/report.json").read_text())["groups"]
    names = {entry["name"] for entry in group["entries"]}
    assert len(names) == 3
    assert all(("vgg16" in name) != ("mobilenetv2" in name) and "32 px" in name for name in names)
    assert ("vgg16" in group["answer"] or "mobilenetv2" in group["answer"]) and "32 px" in group["answer"]
    for entry in group["entries"]:
        assert entry["embedding"].startswith("mobilenetv2, ") == ("mobilenetv2" in entry["name"])

    for narrowed, count in ((["--backbone", "vgg16"], 1), (OTHER[:2], 2), (["--layers", "stage5,stage4"], 2)):
        assert project("report", *narrowed)[0] == 0
        (group,) = json.loads((project.out / "report/report.json").read_text())["groups"]
        assert len(group["entries"]) == count
    code, _, err = project("report", "--backbone", "resnet50")
    assert code == 2 and "none of the 3 runs" in err
    code, _, err = project("report", "--backbone", "alexnet")
    assert code == 2 and "BACKBONE=alexnet: expected one of vgg16" in err

    picture = str(next((project.images / "test").rglob("*.png")))
    named = next(run.folder for run in load_all(project.out / "runs") if run.head == "centroid")
    code, out, err = project(
        "predict", "--run", named, "--image", picture, *other, "--format", "csv", weights=False
    )
    assert code == 0, err
    assert picture in out
    code, _, err = project("predict", "--run", named, "--backbone", "vgg16", "--image", picture)
    assert code == 2 and "BACKBONE=vgg16: the run" in err
