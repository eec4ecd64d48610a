"""What a user would call says what it returns and raises, and its example runs."""

from __future__ import annotations

import doctest
import inspect
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import features
import models
import reports
from features.backbones.base import Weights
from features.backbones.extractor import VGG16
from features.backbones.registry import BACKBONES, DEFAULT
from tests.stand_in import embed

CALLED: tuple[Callable[..., Any], ...] = (
    features.open_dataset,
    features.from_arrays,
    features.from_indexed,
    features.Dataset.labels,
    features.Dataset.ids,
    features.Dataset.images,
    features.Extractor,
    features.Extractor.spec,
    features.Extractor.embed,
    features.extract,
    features.Embeddings,
    features.Embeddings.labels,
    features.Embeddings.ids,
    features.Embeddings.matrix,
    features.Embeddings.take,
    features.Embeddings.take_each,
    features.Embeddings.blocks,
    models.EstimatorHead,
    models.TrainSplit,
    models.train,
    models.save,
    models.load_all,
    models.Predictor.predict_proba,
    models.Predictor.predict_each,
    reports.gather,
    reports.build,
    reports.Report.to_json,
    reports.write,
)
NEVER_RAISE = (models.load_all, reports.gather, reports.build, reports.Report.to_json)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``out/embeddings`` and ``out/runs``, as ImageNet's weights would have left it."""
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(VGG16, "embed", embed)
        network = VGG16(layers="block4,block5", precision="float32")
        network.weights = Weights({}, "imagenet", str(BACKBONES[DEFAULT].digest), "stand-in")
        split = models.TrainSplit(
            features.extract(features.open_dataset("digits"), network, "out/embeddings"), ["block5"]
        )
        for head, settings in (("centroid", {}), ("ridge", {"alpha": 10.0})):
            models.save(models.train(split, head, seed=0, settings=settings), "out/runs")
    return folder


@pytest.fixture
def here(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(out)


def sections(called: Callable[..., Any]) -> set[str]:
    lines = inspect.getdoc(called).splitlines()  # type: ignore[union-attr]
    return {title for title, rule in pairwise(lines) if rule and not rule.strip("-")}


@pytest.mark.parametrize("called", CALLED, ids=lambda called: called.__qualname__)
def test_what_comes_back_and_what_is_raised_is_said(called: Callable[..., Any]) -> None:
    expected = {"Examples"}
    if not inspect.isclass(called):
        expected.add("Returns")
    if called not in NEVER_RAISE:
        expected.add("Raises")
    assert expected <= sections(called)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("called", CALLED, ids=lambda called: called.__qualname__)
def test_its_example_runs(called: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder where the embeddings and two runs of them are; the network is a stand-in."""
    example = inspect.getdoc(called) or ""
    monkeypatch.setattr(VGG16, "embed", embed)
    test = doctest.DocTestParser().get_doctest(example, {}, called.__qualname__, None, None)
    assert test.examples
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST)
    runner.run(test, out=report.append, clear_globs=True)
    assert runner.failures == 0, "".join(report)


@pytest.mark.usefixtures("here")
class TestWrongArguments:
    def test_a_layer_that_a_file_does_not_have_is_no_damage(self) -> None:
        (path,) = Path("out/embeddings").glob("*.h5")
        with pytest.raises(ValueError, match=r"^layers=block9: expected some of block4, block5$"):
            features.Embeddings(str(path)).matrix("train", ["block5", "block9"])

    def test_vectors_that_lack_a_layer(self) -> None:
        predictor = models.Predictor(models.load_all("out/runs")[0], "out/runs")
        with pytest.raises(ValueError, match=r"^vectors: expected block5; block5 is missing$"):
            predictor.predict_proba({"block4": np.zeros((1, 512), np.float32)})

    @pytest.mark.parametrize("images", [np.zeros((2, 32, 32, 3)), np.zeros((2, 64, 64, 3), np.uint8)])
    def test_images_of_another_kind(self, images: Any) -> None:
        with pytest.raises(ValueError, match=r"^images: expected uint8 of shape \(n, 32, 32, 3\), got"):
            VGG16().embed(images)


def test_every_public_name_is_among_them() -> None:
    """But for what is subclassed, filled or given by another: of those the methods are."""
    held = {"HEADS", "Head", "Dataset", "Run", "Report", "Predictor"}
    public = {name for package in (features, models, reports) for name in package.__all__}
    assert public - held <= {called.__name__ for called in CALLED} | {"VGG16"}
