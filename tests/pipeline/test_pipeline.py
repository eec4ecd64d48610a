"""The command line, whole: from pictures to a report, and every wrong turn in one line."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from features import extraction
from features.backbones.extractor import VGG16
from features.cache.part import arrays, canonical, header_digest
from pipeline.__main__ import AMONG, SHOWN, STAGES, main, parser
from tests.conftest import Project

ROOT = Path(__file__).parents[2]


def test_the_main_job(real_project: Project) -> None:
    project = real_project
    code, out, _ = project("features")
    assert code == 0
    assert Path(out.strip()) == project.cache
    for head in ("logistic", "dense", "baseline"):
        code, out, err = project("train", "--head", head)
        assert code == 0, err
        assert (Path(out.strip()) / "run.json").exists()
    code, out, _ = project("report")
    assert code == 0
    assert Path(out.strip()) == project.out / "report" / "index.html"
    (group,) = json.loads((project.out / "report" / "report.json").read_text())["groups"]
    assert {entry["head"] for entry in group["entries"]} == {"logistic", "dense", "baseline"}
    best = group["entries"][0]
    assert best["accuracy"]["value"] > 0.8, "the colours tell the classes apart"
    assert best["weights"].startswith("custom:")
    assert (
        f"Custom weights:</strong> some embeddings come from {best['weights']}"
        in (project.out / "report" / "index.html").read_text()
    )

    code, out, err = project("verify")
    assert code == 0, out + err
    assert "embedded again" in out
    assert "FAILED" not in out


def test_a_second_pass_is_a_hit(project: Project) -> None:
    project("features")
    before = project.cache.read_bytes()
    code, _, err = project("features")
    assert code == 0
    assert "cached and verified" in err
    assert "embed:" not in err
    assert project.cache.read_bytes() == before
    code, _, err = project("features", "--layers", "block5")
    assert "cached and verified" in err, "a subset of the layers is a hit"


@pytest.mark.slow
def test_a_hit_and_a_linear_head_and_a_report_load_no_tensorflow(project: Project) -> None:
    project("features")
    given = [*project.common, "--weights", project.weights]
    code = (
        "import sys; from pipeline.__main__ import main\n"
        f"for stage in (['features', *{given}], ['train', '--head', 'logistic', *{given}],\n"
        f"              ['report', '--out', {str(project.out)!r}]):\n"
        "    code = main(stage)\n"
        "    loaded = {'tensorflow', 'keras'} & set(sys.modules)\n"
        "    if code or loaded: sys.exit(f'{stage[0]}: {code}, {loaded}')\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
def test_a_limit_never_poses_as_the_whole(project: Project) -> None:
    project("features", "--limit", "12")
    with h5py.File(project.cache) as file:
        assert json.loads(file.attrs["dataset"])["limit"] == 12
        assert len(file["train/labels"]) == 12
    code, _, err = project("train")
    assert code == 2
    assert "cached: LIMIT=12, asked: null" in err
    code, _, _ = project("train", "--limit", "12", "--head", "logistic")
    assert code == 0
    project("report")
    assert "A small run:" in (project.out / "report" / "index.html").read_text()


@pytest.mark.slow
def test_a_report_is_made_again_for_a_spreadsheet_when_asked(project: Project) -> None:
    project("features")
    project("train", "--head", "centroid")
    marks = []
    for form in ("csv", "spreadsheet", "json"):  # the last is of predictions: passed over
        code, _, err = project("report", "--format", form)
        assert code == 0
        assert "nothing new" not in err
        marks.append((project.out / "report" / "runs.csv").read_bytes().startswith(b"\xef\xbb\xbf"))
    assert marks == [False, True, False]
    assert "nothing new" in project("report")[2]
    code, _, err = project("report", "--format", "xml")
    assert code == 2
    assert err == "error: FORMAT=xml: expected one of table, json, csv, spreadsheet\n"


@pytest.mark.slow
def test_a_report_keeps_to_what_was_said(project: Project) -> None:
    project("features")
    project("train", "--head", "logistic")
    project("train", "--head", "logistic", "--layers", "block5")
    for filters, count in (([], 2), (["--layers", "block5"], 1), (["--dataset", str(project.images)], 2)):
        assert project("report", *filters)[0] == 0
        document = json.loads((project.out / "report" / "report.json").read_text())
        assert sum(len(group["entries"]) for group in document["groups"]) == count
    for filters, count in (
        (["--precision", "auto"], 2),
        (["--layers", "block5,block4"], 1),
        (["--weights", project.weights], 2),
    ):
        assert project("report", *filters)[0] == 0
        document = json.loads((project.out / "report" / "report.json").read_text())
        assert sum(len(group["entries"]) for group in document["groups"]) == count
    assert project("report", "--layers", "block5@2")[0] == 2
    code, _, err = project("report", "--head", "dense")
    assert code == 2
    assert "none of the 2 runs" in err


class TestFaults:
    def test_a_damaged_cache_is_set_aside_and_computed_again(self, project: Project) -> None:
        project("features")
        content = bytearray(project.cache.read_bytes())
        with h5py.File(project.cache) as file:
            at = file["train/block4"].id.get_chunk_info(0).byte_offset + 100
        content[at] ^= 8
        project.cache.write_bytes(content)
        code, _, err = project("train", "--head", "logistic")
        assert code == 2
        assert "is damaged" in err
        assert "run: make features" in err
        code, out, _ = project("verify")
        assert code == 1
        assert "FAILED digest of train/block4" in out
        code, _, err = project("features")
        assert code == 0
        assert "train/block4" in err
        assert "is set aside as" in err
        assert project("verify")[0] == 0

    @pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
    def test_a_file_cut_short_is_set_aside_and_computed_again(self, project: Project, keep: float) -> None:
        project("features")
        content = project.cache.read_bytes()
        project.cache.write_bytes(content[: int(len(content) * keep)])
        code, _, err = project("features")
        assert code == 0
        assert "is set aside as" in err
        assert project("train", "--head", "logistic")[0] == 0

    def test_ctrl_c_tells_how_to_go_on(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(extraction, "extract", interrupt)
        code, _, err = project("features")
        assert code == 130
        assert "interrupted; finished work is kept. To resume: make features DATASET=" in err

    def test_changed_images_are_found_by_verify(self, project: Project) -> None:
        project("features")
        image = project.images / "train" / "cat" / "001.jpg"
        image.write_bytes((project.images / "train" / "dog" / "001.jpg").read_bytes())
        code, out, _ = project("verify")
        assert code == 1
        assert "FAILED digest of the images" in out


class TestContentDecides:
    def test_a_folder_that_has_moved_is_known_again(self, project: Project) -> None:
        project("features")
        moved = project.images.rename(project.images.with_name("moved"))
        project.common[1] = str(moved)
        for stage in (["features"], ["train", "--head", "logistic"], ["verify"]):
            code, _, err = project(*stage)
            assert code == 0, err

    def test_weights_that_lie_elsewhere_are_known_again(self, project: Project, tmp_path: Path) -> None:
        project("features")
        elsewhere = tmp_path / "elsewhere.h5"
        elsewhere.symlink_to(project.weights)
        project.weights = str(shutil.copy(project.weights, tmp_path / "copy.h5"))
        assert project("train", "--head", "logistic")[0] == 0

    def test_after_a_change_of_images_the_cache_of_these_images_is_read(self, project: Project) -> None:
        project("features")
        old = project.cache
        image = project.images / "train" / "cat" / "001.jpg"
        image.write_bytes((project.images / "train" / "dog" / "001.jpg").read_bytes())
        project("features")
        (new,) = set(old.parent.glob("*.h5")) - {old}
        code, out, err = project("train", "--head", "logistic")
        assert code == 0, err
        run = json.loads((Path(out.strip()) / "run.json").read_text())
        assert run["fingerprint"][:12] in new.name

    def test_what_the_default_size_loses_is_told_and_what_was_chosen_is_not(self, project: Project) -> None:
        for path in project.images.glob("*/*/*"):
            Image.open(path).resize((90, 70)).save(path)
        _, _, err = project("features")
        assert "note: these pictures are about 70 pixels on their short side, reduced to 32" in err
        _, _, err = project("features", "--image-size", "33")
        assert "note:" not in err

    @pytest.mark.parametrize(
        ("suffix", "quality", "size", "told"),
        [
            (".jpg", 75, 80, True),
            (".jpg", 75, 79, False),
            (".jpg", 94, 128, True),
            (".jpg", 95, 128, False),
            (".png", 75, 128, False),
        ],
    )
    def test_compression_that_is_enlarged_is_told(
        self, project: Project, suffix: str, quality: int, size: int, told: bool
    ) -> None:
        for path in project.images.glob("*/*/*"):
            image = Image.open(path)
            path.unlink()
            image.save(path.with_suffix(suffix), quality=quality)
        _, _, err = project("features", "--image-size", str(size))
        note = (
            f"note: these pictures are JPEGs of about quality {quality}, 40 pixels on their short side, "
            f"enlarged {size / 40:g} times: compression, not the network, may limit accuracy; "
            "lossless originals keep more"
        )
        assert (note in err.splitlines()) is told
        assert told or "note:" not in err

    def test_layers_of_an_older_state_are_not_taken_for_these(self, project: Project) -> None:
        project("features", "--layers", "block5")
        old = project.cache
        image = project.images / "train" / "cat" / "001.jpg"
        image.write_bytes((project.images / "train" / "dog" / "001.jpg").read_bytes())
        project("features")
        (new,) = set(old.parent.glob("*.h5")) - {old}
        code, out, err = project("train", "--head", "ridge", "--layers", "block5")
        assert code == 0, err
        assert json.loads((Path(out.strip()) / "run.json").read_text())["fingerprint"][:12] in new.name
        image.write_bytes((project.images / "train" / "dog" / "002.jpg").read_bytes())
        code, _, err = project("train", "--head", "ridge", "--layers", "block5")
        assert code == 2
        assert "cached: dataset_sha256=" in err
        assert "run: make features" in err


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["features", "--dataset", "mnist"], "unknown dataset 'mnist'"),
            (["features", "--layers", "block9"], "LAYERS=block9: expected some of"),
            (["features", "--layers", "block5@3"], "expected @1 at most"),
            (["features", "--image-size", "16"], "IMAGE_SIZE=16: expected at least 32"),
            (["features", "--preprocess", "none"], "PREPROCESS=none"),
            (["features", "--weights", "nowhere.h5"], "WEIGHTS=nowhere.h5: no such file"),
            (["features", "--archive", "nowhere.tar.gz", "--limit", "50"], "no such file"),
            (["train", "--head", "nope"], "unknown head 'nope': expected one of prior, centroid, knn"),
            (["train"], "no embeddings fit under"),
            (["verify"], "no embeddings fit under"),
            (["report"], "no run under"),
        ],
    )
    def test_one_line_says_what_to_do(
        self,
        arguments: list[str],
        message: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        weights_path: str,
    ) -> None:
        if "--archive" in arguments:
            arguments = [*arguments, "--weights", weights_path]
        assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
        assert message in lines[0]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nope"], "invalid choice: 'nope'"),
            (["features", "--hed", "x"], "unrecognized arguments: --hed"),
            (["features", "--limit", "many"], "invalid int value: 'many'"),
            ([], "required: stage"),
        ],
    )
    def test_a_wrong_command_line_is_one_line_too(
        self, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert message in line

    def test_train_says_which_features_are_missing(self, project: Project) -> None:
        code, _, err = project("train", "--image-size", "64")
        assert code == 2
        command = err.strip().rpartition("run: ")[2]
        assert command.startswith("make features DATASET=")
        assert "IMAGE_SIZE=64" in command
        assert "HEAD" not in command

    def test_several_caches_that_fit_are_listed(self, project: Project) -> None:
        project("features")
        project("features", "--precision", "bfloat16")
        code, _, err = project("train", "--head", "ridge", "--precision", "auto")
        assert code == 2
        assert "several caches fit" in err
        assert "name PRECISION=" in err

    def test_caches_that_differ_in_other_layers_alone_are_one_as_good_as_the_other(
        self, project: Project
    ) -> None:
        project("features")
        project("features", "--layers", "block3,block4")
        code, _, err = project("train", "--head", "ridge", "--layers", "block4")
        assert code == 0, err

    def test_an_unreadable_image_is_named_and_nothing_is_left_half_done(self, project: Project) -> None:
        (project.images / "test" / "dog" / "003.png").write_bytes(b"no picture")
        code, _, err = project("features")
        assert code == 2
        assert "test/dog/003.png" in err.strip().splitlines()[-1]
        assert not list((project.out / "embeddings").glob("*.h5"))

    def test_warnings_that_name_no_picture_are_not_shown(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of a corrupt EXIF, and of many pixels; here a warning would be an error."""
        path = project.images / "test" / "dog" / "003.png"
        exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 50)
        with Image.open(path) as picture:
            picture.save(path.with_suffix(".jpg"), exif=exif)
        path.unlink()
        with pytest.warns(UserWarning, match="Corrupt EXIF"), Image.open(path.with_suffix(".jpg")):
            pass
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
        code, _, err = project("features")
        assert code == 0, err
        assert "Warning" not in err

    def test_embeddings_that_are_no_numbers_are_refused_and_never_cached(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        embed = VGG16.embed

        def overflow(*given: Any) -> Any:
            return {layer: np.where(vectors > 0, np.inf, vectors) for layer, vectors in embed(*given).items()}

        monkeypatch.setattr(VGG16, "embed", overflow)
        code, _, err = project("features")
        assert code == 2
        assert "numbers beyond the range of float32" in err
        assert not list((project.out / "embeddings").glob("*.h5"))


class TestHelp:
    def test_help_loads_nothing_heavy(self) -> None:
        heavy = ["tensorflow", "keras", "sklearn", "scipy", "matplotlib", "h5py", "numpy"]
        code = (
            "import sys; from pipeline.__main__ import main\n"
            "try: main(['--help'])\n"
            "except SystemExit: pass\n"
            f"sys.exit(' '.join(set({heavy}) & set(sys.modules)) or 0)"
        )
        run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        for stage in STAGES:
            assert stage in run.stdout

    @pytest.mark.parametrize("stage", STAGES)
    def test_every_option_tells_its_default_and_an_example(self, stage: str) -> None:
        text = parser([stage])._subparsers._group_actions[0].choices[stage].format_help()  # type: ignore[union-attr, index]
        assert f"python -m pipeline {stage}" in " ".join(text.split()).partition("Example: ")[2]
        assert set(re.findall(r"^  --([a-z-]+)", text, re.M)) - {"json", "csv"} == {
            name.replace("_", "-") for name in SHOWN[stage]
        }
        assert ("default: block3" in " ".join(text.split())) == (
            "layers" in SHOWN[stage] and stage not in AMONG
        ), "what narrows the runs has no default"

    def test_options_of_other_stages_are_accepted(self) -> None:
        for stage in STAGES:
            arguments = parser([stage]).parse_args([stage, "--to", "x", "--head", "ridge", "--limit", "3"])
            assert (arguments.to, arguments.head, arguments.limit) == ("x", "ridge", 3)

    def test_another_python_is_told_what_to_do(self) -> None:
        code = "import sys; sys.modules['h5py'] = None; from pipeline.__main__ import main; sys.exit(main())"
        command = [sys.executable, "-c", code, "train", "--head", "ridge"]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert run.returncode == 2
        assert (
            "has no h5py; run: make setup, then: .venv/bin/python -m pipeline train --head ridge"
            in run.stderr
        )
        assert len(run.stderr.splitlines()) == 1


class TestWhatIsThere:
    """Of stage one: what a command goes on with, sets aside, or calls near."""

    @pytest.fixture(autouse=True)
    def _no_choice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def choose(*_: object) -> None:
            raise AssertionError("nothing is measured where something is there")

        monkeypatch.setattr("features.extraction.choose", choose)

    def test_auto_goes_on_with_a_finished_cache_of_any_precision(self, project: Project) -> None:
        assert project("features", "--precision", "bfloat16")[0] == 0
        code, _, err = project("features", "--precision", "auto")
        assert code == 0
        assert "cached and verified" in err

    def test_auto_goes_on_with_a_pass_that_was_begun(self, project: Project) -> None:
        assert project("features", "--precision", "bfloat16")[0] == 0
        project.cache.rename(project.cache.with_suffix(".parts"))  # the name that a pass under way has
        parts = next((project.out / "embeddings").iterdir())
        parts.unlink()
        parts.mkdir()
        code, _, err = project("features", "--precision", "auto")
        assert code == 0, err
        assert "precision bfloat16: continuing the pass that was begun with it" in err

    @pytest.mark.parametrize("more", [["--precision", "auto"], ["--layers", "block5"], []])
    def test_a_damaged_header_is_set_aside_whatever_was_asked(
        self, project: Project, more: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert project("features")[0] == 0
        path = project.cache
        path.write_bytes(path.read_bytes()[:5000])
        monkeypatch.setattr("features.extraction.choose", lambda it, _: (it.at("float32"), "float32"))
        code, _, err = project("features", *more)
        assert code == 0
        assert f"{path} is damaged or cut short" in err
        assert f"{path.name} is set aside as {path.name}.damaged-1" in err
        assert path.with_name(f"{path.name}.damaged-1").exists()

    def test_another_process_may_have_set_it_aside(self, project: Project) -> None:
        assert project("features")[0] == 0
        path = project.cache
        extraction._set_aside(path)  # it is whole by now
        assert path.exists()
        path.unlink()
        extraction._set_aside(path)
        assert not list((project.out / "embeddings").iterdir())

    def test_a_miss_names_the_nearest_and_the_field(self, project: Project) -> None:
        assert project("features")[0] == 0
        name = project.cache.name
        code, _, err = project("features", "--layers", "block2")
        assert code == 0
        assert f"not cached yet; the closest is {name} (cached: layers=block4,block5, asked: block2)" in err

    def test_a_cache_without_a_field_is_a_miss_that_names_it(self, project: Project) -> None:
        assert project("features")[0] == 0
        with h5py.File(project.cache, "r+") as file:
            spec = json.loads(file.attrs["spec"])
            del spec["mirror"]
            file.attrs["spec"] = canonical(spec)
            file.attrs["sha256"] = header_digest(file.attrs, dict(arrays(file)))
        code, _, err = project("train", "--head", "prior")
        assert code == 2
        assert "cached: MIRROR=null, asked: false" in err
