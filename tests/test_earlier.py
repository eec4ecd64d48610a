"""An ``OUT`` folder that an earlier version made is read as before.

``tests/data/earlier`` is of 2026-11-25, before other networks could be added: 60 + 60 digits through
the ImageNet weights (``LIMIT=60 LAYERS=block4,block5 PRECISION=float32``), five runs, a learning curve
and the report's numbers.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.cache.embeddings import Embeddings
from models.runs.collection import load_all
from models.runs.predictor import Predictor
from pipeline.__main__ import main

KEPT = Path(__file__).parent / "data" / "earlier"
FINGERPRINT = "2f54994672ef96d7d283ef045edb9aaeb985875fb4cfc8bed2190e6697b87dae"
COMMON = ("--dataset", "digits", "--limit", "60", "--layers", "block4,block5", "--precision", "float32")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return Path(shutil.copytree(KEPT, tmp_path / "out", ignore=shutil.ignore_patterns("report.json")))


def state(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.*") if path.is_file()}


def test_its_cache_is_the_one_that_is_asked_for(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = state(out)
    assert main(["features", *COMMON, "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(
        out / f"embeddings/digits-32px-imagenet-float32-{FINGERPRINT[:12]}.h5"
    )
    assert state(out) == before


@pytest.mark.parametrize(
    ("head", "settings", "run"),
    [
        ("centroid", "", "8d8db8888111"),
        ("logistic", "C=0.01", "d8335f07c005"),
        ("dense", "epochs=4,hidden=16", "d9bce3caa096"),
        ("knn", "", "afb99ce393b2"),
    ],
)
def test_its_runs_need_no_training(
    head: str, settings: str, run: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state(out)
    more = ["--set", settings] if settings else []
    assert main(["train", *COMMON, "--out", str(out), "--head", head, *more]) == 0
    assert capsys.readouterr().out.strip() == str(out / f"runs/digits-{head}-seed0-{run}")
    assert state(out) == before


def test_its_heads_predict_what_they_predicted(out: Path) -> None:
    (path,) = (out / "embeddings").glob("*.h5")
    cache = Embeddings(path)
    vectors = {layer: cache.matrix("test", [layer]) for layer in cache.layers}
    runs = load_all(out / "runs")
    assert {run.head for run in runs} == {"centroid", "logistic", "dense", "knn", "vote"}
    for run in runs:
        proba = Predictor(run, out / "runs").predict_proba(vectors)
        assert np.abs(proba - run.test_scaled).max() < 1e-5, run.folder


def same(found: Any, kept: Any, at: str = "") -> None:
    """All that is kept is found, and equal, but for wording and a class's intervals, a bootstrap's."""
    if isinstance(kept, dict):
        for name in kept:
            if "/per_class/" in at and name.endswith(("_low", "_high")):
                continue
            if name not in ("created", "schema", "sentence", "about", "title"):
                same(found[name], kept[name], f"{at}/{name}")
    elif isinstance(kept, list):
        assert len(found) == len(kept), at
        for place, (left, right) in enumerate(zip(found, kept, strict=True)):
            same(left, right, f"{at}/{place}")
    elif isinstance(kept, float):
        assert found == pytest.approx(kept, abs=1e-6), at
    else:
        assert found == kept, at


@pytest.mark.usefixtures("undrawn")
def test_its_report_says_the_same(out: Path) -> None:
    assert main(["report", "--out", str(out)]) == 0
    same(json.loads((out / "report/report.json").read_text()), json.loads((KEPT / "report.json").read_text()))
