"""What every dataset must do, and what folders alone do."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from features.datasets import bucket
from features.datasets.base import MIN_TRAIN, SPLITS, Dataset
from features.datasets.cifar import CIFAR100, Cifar10, Cifar100
from features.datasets.digits import Digits
from features.datasets.filelist import csv_list
from features.datasets.folder import Folder
from features.datasets.memory import from_arrays, from_indexed
from features.datasets.registry import DATASETS, open_dataset
from features.errors import UserError
from features.files import file_digest
from models.runs.collection import load_all
from pipeline.__main__ import main
from reports.context.thumbnails import Pictures
from tests.conftest import Project
from tests.features.datasets.packing import listed, write_parquet, write_shards

Open = Callable[..., Dataset]


def made(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images of noise, ``(count, 40, 50, 3)``, and labels of three classes in turn."""
    rng = np.random.default_rng(7)
    return rng.integers(0, 256, (count, 40, 50, 3), dtype=np.uint8), np.arange(count) % 3


def write_csv(path: Path, rows: Iterable[Sequence[str]], header: str = "path,label,split") -> Path:
    with open(path, "w", newline="", encoding="utf-8") as stream:
        stream.write(header + "\n")
        csv.writer(stream).writerows(rows)
    return path


FOLDERS = ["split folder", "plain folder", "csv", "plain csv", "parquet list"]
SHARDS = ["parquet", "plain parquet", "tars", "plain tar"]


@pytest.fixture(params=["cifar10", "cifar100", "digits", *FOLDERS, *SHARDS, "arrays", "pairs"])
def open_it(
    request: pytest.FixtureRequest, make_folder: Callable[..., Path], make_archive: Callable[..., Path]
) -> Open:
    if request.param == "cifar10":
        archive = make_archive(rows=20)
        digest = file_digest(archive)
        return lambda limit=None: Cifar10(str(archive), limit, sha256=digest)
    if request.param == "cifar100":
        fine = make_archive(rows=600, official=CIFAR100)
        digest = file_digest(fine)
        return lambda limit=None: Cifar100(str(fine), limit, sha256=digest)
    if request.param == "digits":
        return lambda limit=None: Digits(limit)
    if request.param in ("arrays", "pairs"):
        images, labels = made(60)
        if request.param == "arrays":
            return lambda limit=None: from_arrays(images, labels, limit=limit)
        pairs = [
            {"img": Image.fromarray(one), "label": int(label)} for one, label in zip(*made(60), strict=True)
        ]
        return lambda limit=None: from_indexed(pairs[:45], pairs[45:], limit=limit)
    split = not request.param.startswith("plain")
    root = make_folder({"train": 12, "test": 4} if split else 15)
    if request.param in SHARDS:
        shards = write_shards(root, ".parquet" if "parquet" in request.param else ".tar")
        return lambda limit=None: open_dataset(str(shards), limit=limit)
    if request.param == "parquet list":
        rows = listed(root)
        columns = dict(zip(("path", "label", "split"), map(list, zip(*rows, strict=True)), strict=True))
        table = write_parquet(root.with_name("pets.parquet"), columns)
        return lambda limit=None: open_dataset(str(table), limit=limit)
    if "csv" in request.param:
        path = write_csv(root.with_name("pets.csv"), listed(root, split))
        return lambda limit=None: csv_list(path, limit)
    return lambda limit=None: Folder(root, limit)


class TestContract:
    def test_rows_line_up(self, open_it: Open) -> None:
        dataset = open_it()
        for split in SPLITS:
            labels, ids = dataset.labels(split), dataset.ids(split)
            assert labels.dtype == np.int64
            assert len(labels) == len(ids) == len(set(ids)) > 0
            assert set(labels) == set(range(len(dataset.class_names)))

    def test_splits_share_no_row(self, open_it: Open) -> None:
        dataset = open_it()
        assert not set(dataset.ids("train")) & set(dataset.ids("test"))

    @pytest.mark.parametrize("size", [32, 48])
    def test_slices_are_pieces_of_the_whole(self, open_it: Open, size: int) -> None:
        dataset = open_it()
        whole = dataset.images("train", 0, 12, size)
        assert whole.shape == (12, size, size, 3)
        assert whole.dtype == np.uint8
        pieces = [dataset.images("train", start, min(start + 5, 12), size) for start in (0, 5, 10)]
        assert np.array_equal(np.concatenate(pieces), whole)
        assert whole.std() > 1

    def test_how_a_picture_is_stored(self, open_it: Open) -> None:
        dataset = open_it()
        for row, name in enumerate(dataset.ids("test")[:3]):
            side = {"cifar10": 32, "cifar100": 32, "digits": 8}.get(dataset.name, 40)
            jpeg = name.endswith(".jpg") if "." in name else dataset.stored("test", row).quality
            assert dataset.stored("test", row) == (side, 75 if jpeg else None)

    def test_opening_again_gives_the_same(self, open_it: Open) -> None:
        one, two = open_it(), open_it()
        assert one.digest() == two.digest() == two.digest(fresh=True)
        assert one.ids("test") == two.ids("test")
        assert np.array_equal(one.images("test", 0, 3, 32), two.images("test", 0, 3, 32))

    def test_a_limit_keeps_rows_of_every_class(self, open_it: Open) -> None:
        whole, limit = open_it(), MIN_TRAIN * len(open_it().class_names)
        small = open_it(limit=limit)
        assert len(small.labels("train")) == limit
        assert np.bincount(small.labels("train")).min() >= MIN_TRAIN
        assert set(small.ids("train")) <= set(whole.ids("train"))
        assert small.digest() == whole.digest()
        row = whole.ids("train").index(small.ids("train")[3])
        assert np.array_equal(small.images("train", 3, 4, 32), whole.images("train", row, row + 1, 32))

    def test_a_limit_that_starves_a_class_is_refused(self, open_it: Open) -> None:
        with pytest.raises(UserError, match="raise limit="):
            open_it(limit=7).labels("train")


def test_digits_are_held_out_in_their_shares() -> None:
    digits = Digits()
    assert len(digits.labels("train")) + len(digits.labels("test")) == 1797
    assert len(digits.labels("test")) == pytest.approx(1797 / 5, abs=10)
    assert np.ptp(np.bincount(digits.labels("test"))) <= 2


class TestFolder:
    def test_ids_are_paths_and_the_order_is_sorted(self, make_folder: Callable[..., Path]) -> None:
        folder = Folder(make_folder({"train": 6, "test": 2}))
        assert folder.ids("test")[:3] == ["test/cat/000.png", "test/cat/001.jpg", "test/dog/000.png"]

    def test_the_hold_out_is_stratified_and_told(self, make_folder: Callable[..., Path]) -> None:
        folder = Folder(make_folder(20))
        assert np.bincount(folder.labels("test")).tolist() == [4, 4, 4]
        assert "held out" in folder.note

    def test_six_images_a_class_are_enough_without_a_test_folder(
        self, make_folder: Callable[..., Path]
    ) -> None:
        folder = Folder(make_folder(6))
        assert np.bincount(folder.labels("train")).tolist() == [5, 5, 5]
        assert np.bincount(folder.labels("test")).tolist() == [1, 1, 1]

    def test_a_name_that_is_no_text_is_named(self, make_folder: Callable[..., Path]) -> None:
        root = make_folder(8)
        (root / "cat" / "001.jpg").rename(root / "cat" / os.fsdecode(b"caf\xe9.jpg"))
        with pytest.raises(UserError, match=r"caf.udce9\.jpg': not a UTF-8 name"):
            Folder(root)

    def test_a_link_to_itself_is_an_unreadable_picture(self, make_folder: Callable[..., Path]) -> None:
        root = make_folder(8)
        (root / "cat" / "loop.jpg").symlink_to("loop.jpg")
        (root / "cat" / "loop").symlink_to("loop")
        with pytest.raises(UserError, match=r"cat/loop\.jpg: Too many levels of symbolic links; replace or"):
            open_dataset(str(root)).digest()
        dataset = open_dataset(str(root), skip_unreadable=True)
        assert dataset.left_out() == ["cat/loop.jpg"]
        assert "1 other files left out" in dataset.note

    @pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="Linux alone has it")
    def test_a_folder_of_the_system_is_refused_in_a_line(self) -> None:
        with pytest.raises(UserError, match="/proc"):
            open_dataset("/proc")

    def test_a_folder_that_the_system_refuses_is_named(
        self, make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(folder: Path) -> object:
            raise OSError(5, "Input/output error", str(folder))

        root = make_folder(8)
        monkeypatch.setattr(Path, "iterdir", refused)
        with pytest.raises(UserError, match=r"pets.*: Input/output error"):
            open_dataset(str(root))

    def test_a_path_that_may_not_be_looked_at_is_named(
        self, make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(path: Path) -> bool:
            raise PermissionError(13, "Permission denied", str(path))

        root = make_folder(8)
        monkeypatch.setattr(Path, "is_dir", refused)
        with pytest.raises(
            UserError, match=r"dataset=.*pets: cannot be read: Permission denied; name another"
        ):
            open_dataset(str(root))

    def test_a_class_folder_that_cannot_be_listed_is_named(
        self, make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scan = os.scandir

        def refused(folder: Path) -> object:
            if Path(folder).name == "eel":
                raise PermissionError(13, "Permission denied", str(folder))
            return scan(folder)

        root = make_folder(8)
        monkeypatch.setattr(os, "scandir", refused)
        with pytest.raises(UserError, match=r"cannot read .*/eel: Permission denied; fix that"):
            open_dataset(str(root))

    def test_other_files_are_left_out_and_counted(self, make_folder: Callable[..., Path]) -> None:
        root = make_folder(8)
        (root / "cat" / "notes.txt").write_text("no picture")
        (root / "README").write_text("no class")
        (root / ".hidden").mkdir()
        assert "1 other files left out" in Folder(root).note

    def test_moving_the_folder_keeps_the_digest(self, make_folder: Callable[..., Path]) -> None:
        root = make_folder(8)
        before = Folder(root).digest()
        moved = root.rename(root.with_name("moved"))
        assert Folder(moved).digest() == before

    @pytest.mark.parametrize("change", ["a pixel", "a name", "a class", "one image less"])
    def test_every_change_changes_the_digest(self, make_folder: Callable[..., Path], change: str) -> None:
        root = make_folder({"train": 8, "test": 3})
        before = Folder(root).digest()
        image = root / "train" / "cat" / "001.jpg"
        if change == "a pixel":
            content = bytearray(image.read_bytes())
            content[-5] ^= 1
            image.write_bytes(content)
        elif change == "a name":
            image.rename(image.with_name("zzz.jpg"))
        elif change == "a class":
            image.rename(root / "train" / "dog" / "zzz.jpg")
        else:
            image.unlink()
        assert Folder(root).digest() != before

    def test_a_change_that_keeps_size_and_time_is_seen_by_a_fresh_digest(
        self, make_folder: Callable[..., Path]
    ) -> None:
        root = make_folder(8)
        before = Folder(root).digest()
        image = root / "cat" / "001.jpg"
        stat = image.stat()
        content = bytearray(image.read_bytes())
        content[-5] ^= 1
        image.write_bytes(content)
        os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert Folder(root).digest() == before, "the one stated exception to trusting content only"
        assert Folder(root).digest(fresh=True) != before

    @pytest.mark.parametrize(
        ("splits", "classes", "message"),
        [
            (8, ("cat",), "one class"),
            (0, ("cat", "dog"), "no images"),
            (5, ("cat", "dog"), "'cat' has 5 images in train, expected at least 6"),
            ({"train": 4, "test": 2}, ("cat", "dog"), "'cat' has 4 images in train, expected at least 5"),
            ({"train": 6, "test": 0}, ("cat", "dog"), "'cat' has 0 images in test, expected at least 1"),
        ],
    )
    def test_too_little_is_refused_by_name(
        self, make_folder: Callable[..., Path], splits: int, classes: tuple[str, ...], message: str
    ) -> None:
        with pytest.raises(UserError, match=message):
            Folder(make_folder(splits, classes))

    def test_classes_that_differ_between_splits_are_named(self, make_folder: Callable[..., Path]) -> None:
        root = make_folder({"train": 8, "test": 3})
        shutil.rmtree(root / "test" / "eel")
        with pytest.raises(UserError, match=r"differ in their classes \(eel\)"):
            Folder(root)

    def test_an_unreadable_image_is_named(self, make_folder: Callable[..., Path]) -> None:
        root = make_folder(8)
        (root / "dog" / "004.jpg").write_bytes(b"no picture")
        folder = Folder(root)
        with pytest.raises(UserError, match=r"dog/004\.jpg"):
            for split in SPLITS:
                folder.images(split, 0, len(folder.labels(split)), 32)


class TestList:
    """A CSV, or what else names picture files and their labels."""

    @pytest.fixture
    def root(self, make_folder: Callable[..., Path]) -> Path:
        return make_folder({"train": 6, "test": 2})

    def test_ids_are_the_paths_as_they_are_listed_and_in_that_order(self, root: Path) -> None:
        rows = listed(root)
        dataset = csv_list(write_csv(root.parent / "list.csv", rows))
        for split in SPLITS:
            assert dataset.ids(split) == [path for path, _, part in rows if part == split]
            of = {path: label for path, label, _ in rows}
            named = [dataset.class_names[number] for number in dataset.labels(split)]
            assert named == [of[path] for path in dataset.ids(split)]

    def test_pictures_are_those_of_the_folder(self, root: Path) -> None:
        folder, dataset = Folder(root), csv_list(write_csv(root.parent / "list.csv", sorted(listed(root))))
        assert np.array_equal(dataset.images("test", 0, 6, 40), folder.images("test", 0, 6, 40))

    def test_without_a_test_split_one_in_five_is_held_out(self, make_folder: Callable[..., Path]) -> None:
        root = make_folder(20)
        rows = [(path, label) for path, label, _ in listed(root)]
        dataset = csv_list(write_csv(root.parent / "list.csv", rows, "path,label"))
        assert np.bincount(dataset.labels("test")).tolist() == [4, 4, 4]
        assert dataset.held_out
        assert "held out" in dataset.note

    def test_columns_stand_in_any_order_among_others(self, root: Path) -> None:
        rows = [(label, "x", split, path) for path, label, split in listed(root)]
        write_csv(root.parent / "list.csv", rows, "\ufefflabel, note, split , path")
        dataset = open_dataset(str(root.parent / "list.csv"))
        assert (dataset.class_names, len(dataset.ids("test"))) == (("cat", "dog", "eel"), 6)

    def test_classes_that_are_numbers_stand_in_their_order(self, root: Path) -> None:
        number = {"cat": "2", "dog": "10", "eel": "0"}
        rows = [(path, number[label], split) for path, label, split in listed(root)]
        assert csv_list(write_csv(root.parent / "list.csv", rows)).class_names == ("0", "2", "10")

    def test_a_validation_split_is_left_out_and_reported(self, make_folder: Callable[..., Path]) -> None:
        root = make_folder({"train": 6, "test": 2, "validation": 3})
        dataset = csv_list(write_csv(root.parent / "list.csv", listed(root)))
        assert (len(dataset.labels("train")), len(dataset.labels("test"))) == (18, 6)
        assert dataset.note == "9 rows of validation left out"

    def test_moving_list_and_files_keeps_the_digest(self, root: Path, tmp_path: Path) -> None:
        before = csv_list(write_csv(root.parent / "list.csv", listed(root))).digest()
        (tmp_path / "elsewhere").mkdir()
        for path in (root, root.parent / "list.csv"):
            path.rename(tmp_path / "elsewhere" / path.name)
        assert csv_list(tmp_path / "elsewhere" / "list.csv").digest() == before

    @pytest.mark.parametrize(
        "change", ["a pixel", "a label", "a class", "the order", "one row less", "a split"]
    )
    def test_every_change_changes_the_digest(self, root: Path, change: str) -> None:
        rows = sorted(listed(root))
        before = csv_list(write_csv(root.parent / "list.csv", rows)).digest()
        if change == "a pixel":
            image = root.parent / rows[4][0]
            image.write_bytes(image.read_bytes() + b"\0")
        elif change == "a label":
            rows[8] = (rows[8][0], {"cat": "dog", "dog": "cat", "eel": "cat"}[rows[8][1]], rows[8][2])
        elif change == "a class":
            rows = [(path, label.replace("cat", "ape"), split) for path, label, split in rows]
        elif change == "the order":
            rows[0], rows[1] = rows[1], rows[0]
        elif change == "one row less":
            del rows[-1]
        else:
            rows[-1] = (*rows[-1][:2], "test")
        assert csv_list(write_csv(root.parent / "list.csv", rows)).digest() != before

    def test_a_file_that_changes_after_its_digest_is_refused(self, root: Path) -> None:
        dataset = csv_list(write_csv(root.parent / "list.csv", listed(root)))
        dataset.digest()
        image = root.parent / dataset.ids("train")[2]
        Image.new("RGB", (9, 9)).save(image)
        with pytest.raises(UserError, match=f"{image.name} has changed since its digest was taken"):
            dataset.images("train", 0, 5, 32)

    def test_an_unreadable_image_is_named(self, root: Path) -> None:
        dataset = csv_list(write_csv(root.parent / "list.csv", listed(root)))
        (root.parent / dataset.ids("train")[2]).write_bytes(b"no picture")
        with pytest.raises(UserError, match=rf"cannot read the image .*{dataset.ids('train')[2]}: expected"):
            dataset.images("train", 0, 5, 32)

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("gone.png,cat,train", r"line 4: no such file: /.*gone\.png; expected a path relative to"),
            (",cat,train", "line 4: expected a path, a label and, .* got path '', label 'cat'"),
            ("a.png,,train", "line 4: expected a path, a label and, .* got path 'a.png', label ''"),
            ("a.png,cat,trian", "line 4: .* train or test; got .* split 'trian'"),
            ("a.png,cat", r"line 4: expected 3 values, as the header has, got 2; correct it"),
            ("./{first},cat,test", r"line 4: pets/.* is in line 2 already; remove one of the two"),
            ('"a.png,cat,train', r"line \d+: not CSV in UTF-8 \(unexpected end of data\)"),
            ("caf\udce9.png,cat,train", r"line \d+: not CSV in UTF-8 \('utf-8' codec"),
        ],
    )
    def test_a_bad_row_is_named_by_file_and_line(self, root: Path, row: str, message: str) -> None:
        rows = listed(root)
        lines = [",".join(one) for one in rows]
        lines.insert(2, row.format(first=rows[0][0]))
        content = "\n".join(["path,label,split", *lines])
        (root.parent / "list.csv").write_bytes(content.encode(errors="surrogateescape"))
        with pytest.raises(UserError, match=rf"^/.*/list\.csv, {message}") as caught:
            csv_list(root.parent / "list.csv")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("header", "rows", "message"),
        [
            (
                "file;class",
                [],
                r"list\.csv, line 1: expected a header with the columns path and label .* got 'file",
            ),
            ("", [], r"list\.csv, line 1: expected a header"),
            ("path,label", [], r"list\.csv: no row has the split train"),
            ("path,label,split", [("a.png", "cat", "validation")], "no row has the split train"),
        ],
    )
    def test_a_list_of_nothing_is_refused(
        self, tmp_path: Path, header: str, rows: list[tuple[str, ...]], message: str
    ) -> None:
        with pytest.raises(UserError, match=message):
            csv_list(write_csv(tmp_path / "list.csv", rows, header))

    @pytest.mark.parametrize(
        ("keep", "message"),
        [
            ({"cat"}, r"list\.csv has one class \(cat\), at least two are needed"),
            (
                {"cat", "dog", "test/eel"},
                "'eel' has 0 images in train, expected at least 5; add images or remove",
            ),
            (
                {"cat", "dog", "train/eel"},
                "'eel' has 0 images in test, expected at least 1; add images or remove",
            ),
        ],
    )
    def test_too_little_is_refused_by_name(self, root: Path, keep: set[str], message: str) -> None:
        rows = [row for row in listed(root) if {row[1], f"{row[2]}/{row[1]}"} & keep]
        with pytest.raises(UserError, match=message):
            csv_list(write_csv(root.parent / "list.csv", rows))

    def test_another_file_is_no_dataset(self, tmp_path: Path) -> None:
        (tmp_path / "images.xls").touch()
        with pytest.raises(UserError, match=r"unknown dataset .*, or of a \.csv, \.parquet or \.tar file"):
            open_dataset(str(tmp_path / "images.xls"))

    @pytest.mark.slow
    def test_one_goes_all_the_way(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write_csv(project.images.parent / "list.csv", listed(project.images))
        monkeypatch.chdir(project.images.parent)
        assert project("features", "--dataset", "list.csv")[0] == 0
        assert "cached and verified" in project("features", "--dataset", str(path))[2]
        assert project("train", "--dataset", "list.csv", "--head", "centroid")[0] == 0
        assert project("verify", "--dataset", "list.csv")[0] == 0
        assert project("evaluate", "--dataset", "list.csv")[0] == 0
        assert project("report")[0] == 0
        (run,) = load_all(project.out / "runs")
        assert str(Pictures(run.dataset).uri("test", 0)).startswith("data:image")
        path.unlink()
        assert Pictures(run.dataset).problem == f"{path} is gone"


class TestInMemory:
    def test_arrays_and_pairs_of_one_content_are_one_dataset(self) -> None:
        images, labels = made(60)
        one = from_arrays(images[:45], labels[:45], test=(images[45:], labels[45:]))
        pairs = list(zip(map(Image.fromarray, images), labels, strict=True))
        two = from_indexed(pairs[:45], pairs[45:])
        assert one.digest() == two.digest()
        assert one.ids("test") == two.ids("test")
        assert np.array_equal(one.images("test", 0, 9, 32), two.images("test", 0, 9, 32))

    @pytest.mark.parametrize("change", ["a pixel", "a label", "a name", "one image less", "the split"])
    def test_every_change_changes_the_digest(self, change: str) -> None:
        images, labels = made(60)
        names, before, test = ["a", "b", "c"], from_arrays(images, labels, class_names="abc"), None
        if change == "a pixel":
            images[7, 3, 3, 0] ^= 1
        elif change == "a label":
            labels[7] = (labels[7] + 1) % 3
        elif change == "a name":
            names[1] = "d"
        elif change == "one image less":
            images, labels = images[:-1], labels[:-1]
        else:
            test = images[45:], labels[45:]
            images, labels = images[:45], labels[:45]
        assert from_arrays(images, labels, test=test, class_names=names).digest() != before.digest()

    @pytest.mark.slow
    def test_a_registered_one_goes_all_the_way(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(DATASETS, "mine", lambda asked: from_arrays(*made(60), limit=asked.limit))
        assert project("features", "--dataset", "mine")[0] == 0
        assert "cached and verified" in project("features", "--dataset", "mine")[2]
        assert project("train", "--dataset", "mine", "--head", "centroid")[0] == 0
        assert project("verify", "--dataset", "mine")[0] == 0
        assert project("report")[0] == 0
        assert '<img src="data:image' in (project.out / "report" / "index.html").read_text()
        monkeypatch.delitem(DATASETS, "mine")
        assert project("report")[0] == 0
        assert "no dataset is named mine here" in (project.out / "report" / "index.html").read_text()

    @pytest.mark.slow
    def test_of_a_registered_one_that_has_changed_the_present_images_are_meant(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images, labels = made(60)
        digests = []
        for changed in (0, 1):
            images[7] ^= changed
            content = from_arrays(images.copy(), labels)
            digests.append(content.digest())
            monkeypatch.setitem(DATASETS, "mine", lambda asked, content=content: content)
            assert project("features", "--dataset", "mine")[0] == 0
        assert len(list((project.out / "embeddings").glob("*.h5"))) == 2
        code, _, err = project("train", "--dataset", "mine", "--head", "centroid")
        assert code == 0, err
        (run,) = load_all(project.out / "runs")
        assert run.dataset["digest"] == digests[1] != digests[0]
        images[7] ^= 2
        monkeypatch.setitem(DATASETS, "mine", lambda asked: from_arrays(images, labels))
        code, _, err = project("train", "--dataset", "mine", "--head", "centroid")
        assert code == 2
        assert "no embeddings fit" in err, "neither of them is of what is there now"

    def test_grey_images_are_of_three_equal_channels(self) -> None:
        images, labels = made(60)
        grey = from_arrays(images[..., 0], labels).images("train", 0, 5, 32)
        assert np.array_equal(grey[..., 0], grey[..., 2])

    def test_class_names_are_those_of_the_library(self) -> None:
        class Torchvisions(list):  # type: ignore[type-arg]
            classes = ("ape", "bat", "cat")

        assert from_indexed(Torchvisions(zip(*made(60), strict=True))).class_names == ("ape", "bat", "cat")

    def test_class_names_are_those_of_hugging_face(self) -> None:
        class ClassLabel:
            names = ("ape", "bat", "cat")

        class HuggingFaces(list):  # type: ignore[type-arg]
            features: ClassVar[dict[str, object]] = {"image": object(), "label": ClassLabel()}

        items = [{"image": image, "label": label} for image, label in zip(*made(60), strict=True)]
        assert from_indexed(HuggingFaces(items)).class_names == ("ape", "bat", "cat")
        HuggingFaces.features["label"] = object()  # a plain number, without names
        assert from_indexed(HuggingFaces(items)).class_names == ("0", "1", "2")

    def test_the_hold_out_is_told(self) -> None:
        dataset = from_arrays(*made(60))
        assert np.bincount(dataset.labels("test")).tolist() == [4, 4, 4]
        assert "held out" in dataset.note

    def test_what_changes_from_reading_to_reading_is_refused(self) -> None:
        images, labels = made(60)
        dataset = from_arrays(images, labels)
        images ^= 1
        assert dataset.digest() != dataset.digest(fresh=True)
        with pytest.raises(
            UserError, match=r"item \d+ of train has changed since .* without random transforms$"
        ):
            dataset.images("train", 0, 1, 32)

    @pytest.mark.parametrize(
        ("images", "labels", "message"),
        [
            (np.zeros((9, 4, 4, 3)), np.arange(9), r"got float64 of shape \(9, 4, 4, 3\)"),
            (np.zeros((9, 3, 4, 4), np.uint8), np.arange(9), r"got uint8 of shape \(9, 3, 4, 4\)"),
            (np.zeros((9, 4, 4), np.uint8), np.arange(8), r"expected 9 integers, got int64 of shape \(8,\)"),
            (np.zeros((9, 4, 4), np.uint8), np.zeros(9), r"expected 9 integers, got float64"),
            (
                np.zeros((9, 4, 4), np.uint8),
                np.arange(9) - 1,
                r"item 0 of train .* got: TypeError the label",
            ),
            (np.zeros((9, 4, 4), np.uint8), np.zeros(9, int), r"at least two classes"),
            (np.zeros((0, 4, 4), np.uint8), np.zeros(0, int), r"at least two classes"),
        ],
    )
    def test_what_is_not_as_described_is_refused_in_a_line(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64], message: str
    ) -> None:
        with pytest.raises(UserError, match=message) as caught:
            from_arrays(images, labels)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "item", [None, (np.zeros((4, 4)), 0), {"label": 1}, (Image.new("L", (4, 4)), "cat")]
    )
    def test_a_bad_item_is_named(self, item: object) -> None:
        pairs: list[object] = list(zip(*made(60), strict=True))
        pairs[5] = item
        with pytest.raises(
            UserError, match=r"^indexed: item 5 of train cannot be read: expected .* got: \w+"
        ):
            from_indexed(pairs)


class TestOpen:
    def test_an_unknown_name_lists_the_known(self) -> None:
        with pytest.raises(
            UserError, match="unknown dataset 'mnist': expected cifar10, cifar100, digits, or the path"
        ):
            open_dataset("mnist")

    def test_an_empty_name_is_not_the_current_folder(
        self,
        make_folder: Callable[..., Path],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(make_folder(8))
        assert open_dataset(".").source == str(Path.cwd())
        with pytest.raises(
            UserError, match=r"^dataset= is empty: expected cifar10, cifar100, digits, or the path"
        ):
            open_dataset("")
        for stage in ("features", "train", "verify"):
            assert main([stage, "--dataset", "", "--out", str(tmp_path / "out")]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith("error: DATASET= is empty: expected cifar10")

    def test_an_archive_belongs_to_cifar10(self) -> None:
        with pytest.raises(UserError, match="archive= belongs to dataset=cifar10"):
            open_dataset("digits", archive="x.tar.gz")

    def test_a_dataset_of_ones_own_is_opened_by_its_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(DATASETS, "mine", lambda asked: Digits(asked.limit))
        mine = open_dataset("mine", limit=80)
        assert (mine.source, len(mine.labels("train"))) == ("mine", 80)
        with pytest.raises(UserError, match=r"unknown dataset 'other': .* digits, mine, or the path"):
            open_dataset("other")

    def test_a_limit_is_positive(self) -> None:
        with pytest.raises(UserError, match="limit=0: expected a positive number"):
            open_dataset("digits", limit=0)


class TestUrls:
    """Before any bucket is asked: those that are are in ``test_bucket.py``."""

    @pytest.mark.parametrize(
        "url",
        [
            "s3://user:h1dden@bucket/pets",
            "s3://bucket:9000/pets",
            "s3://",
            "s3://bu\ncket/pets",
            "https://bucket.s3.amazonaws.com/pets?X-Amz-Signature=h1dden",
            "S3://bucket/h1dden",
        ],
    )
    def test_what_may_hold_keys_is_refused_unrepeated(
        self, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for stage in ("features", "train"):
            assert main([stage, "--dataset", url, "--out", str(tmp_path), "--debug"]) == 2
            told = capsys.readouterr().err
            assert "error: DATASET= is a URL, but not of a bucket: expected s3://bucket/prefix or" in told
            assert "h1dden" not in told

    def test_without_s3fs_the_command_that_installs_it_is_named(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(bucket, "find_spec", lambda name: None)
        assert main(["features", "--dataset", "s3://bucket/pets"]) == 2
        assert capsys.readouterr().err == (
            "error: buckets are read with s3fs, which is not installed; run: "
            ".venv/bin/python -m pip install -r requirements-s3.txt\n"
        )

    def test_train_names_the_command_and_asks_no_bucket(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["train", "--dataset", "s3://bucket/pets/", "--out", str(tmp_path)]) == 2
        assert "run: make features DATASET=s3://bucket/pets/" in capsys.readouterr().err


# A whole PNG of one grey pixel: signature, IHDR, IDAT (stored, not deflated), IEND.
SMALLEST = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000d494441547801010200fdff008000820081c36e250000000049454e44ae426082"
)


class TestDigestsOfBefore:
    """A cache is found by its dataset's digest: that of the same files must be the same in every version."""

    @pytest.fixture
    def pets(self, tmp_path: Path) -> Path:
        """Files of known bytes, in two splits; only their digests are taken."""
        for split, count in (("train", 7), ("test", 2)):
            for name in ("cat", "dög"):
                folder = tmp_path / "pets" / split / name
                folder.mkdir(parents=True)
                for number in range(count):
                    path = folder / f"{number}.{'JPG' if number % 2 else 'png'}"
                    path.write_bytes(f"{name}{number}".encode())
        return tmp_path / "pets"

    def test_class_folders(self, pets: Path) -> None:
        assert Folder(pets).digest()[:24] == "7a00f4bd00592959283f1b2a"

    def test_class_folders_held_out(self, pets: Path) -> None:
        assert Folder(pets / "train").digest()[:24] == "a433fde386f794d119727b21"

    def test_a_list(self, pets: Path) -> None:
        rows = [
            (str(path.relative_to(pets.parent)), path.parent.name, path.parent.parent.name)
            for path in sorted(pets.rglob("*.*"), reverse=True)
        ]
        assert (
            csv_list(write_csv(pets.with_name("pets.csv"), rows)).digest()[:24] == "3f7c89dce689cf6951daed99"
        )

    def test_with_pictures_left_out(self, pets: Path) -> None:
        for number, path in enumerate(sorted((pets / "train").rglob("*.*"))):
            if number % 7 < 6:
                path.write_bytes(SMALLEST)
        for path in (pets / "test").rglob("*.*"):
            path.write_bytes(SMALLEST)
        dataset = Folder(pets, skip_unreadable=True)
        assert dataset.left_out() == ["train/cat/6.png", "train/dög/6.png"]
        assert dataset.digest()[:24] == "788ffcd288b4b08371349c27"
