"""What shards do besides the contract: Parquet with pictures in it, and WebDataset's tars."""

from __future__ import annotations

import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.datasets import parquet, webdataset
from features.datasets.base import SPLITS
from features.datasets.folder import Folder
from features.datasets.packed import Packed
from features.datasets.registry import open_dataset
from features.errors import UserError
from models.runs.collection import load_all
from reports.context.thumbnails import Pictures
from tests.conftest import Project
from tests.features.datasets.packing import (
    rows_of,
    write_members,
    write_parquet,
    write_pictures,
    write_shards,
    write_tar,
)

Make = Callable[..., Path]
SUFFIXES = (".parquet", ".tar")


@pytest.fixture
def root(make_folder: Make) -> Path:
    return make_folder({"train": 12, "test": 4})


@pytest.fixture(params=SUFFIXES)
def shards(request: pytest.FixtureRequest, root: Path) -> Path:
    return write_shards(root, request.param)


def write(path: Path, rows: Any) -> Path:
    return (write_pictures if path.suffix == ".parquet" else write_tar)(path, rows)


class TestShards:
    def test_rows_are_those_that_went_in(self, root: Path, shards: Path) -> None:
        dataset, folder = open_dataset(str(shards)), Folder(root)
        assert dataset.class_names == ("cat", "dog", "eel")
        for split in SPLITS:
            whole = dict(zip(folder.ids(split), folder.images(split, 0, 99, 40), strict=True))
            by_bytes = {(root.parent / "pets" / name).read_bytes(): name for name in whole}
            rows = rows_of(root / split)
            assert dataset.labels(split).tolist() == [
                dataset.class_names.index(label) for _, label, _ in rows
            ]
            assert np.array_equal(
                dataset.images(split, 0, len(rows), 40), [whole[by_bytes[content]] for content, *_ in rows]
            )

    def test_ids_name_the_shard_and_the_row(self, shards: Path) -> None:
        dataset = open_dataset(str(shards))
        ids = dataset.ids("train")
        assert [name.partition("/")[0] for name in ids] == ["train-000000"] * 20 + ["train-000001"] * 16
        assert [int(name.partition("/")[2]) for name in ids] == [*range(20), *range(16)]

    def test_rows_are_read_in_any_order(self, shards: Path) -> None:
        dataset = open_dataset(str(shards))
        whole = dataset.images("train", 0, 36, 32)
        for row in (35, 0, 19, 20, 3, 34, 2):
            assert np.array_equal(dataset.images("train", row, row + 1, 32)[0], whole[row])

    def test_a_validation_split_is_left_out_and_reported(self, root: Path, shards: Path) -> None:
        (extra,) = (path for path in shards.iterdir() if path.stem == "test-000000")
        extra.rename(extra.with_stem("validation-000000"))
        dataset = open_dataset(str(shards))
        assert dataset.note.endswith("held out as the test split; 1 shards of validation left out")
        assert len(dataset.labels("train")) + len(dataset.labels("test")) == 36

    def test_moving_keeps_the_digest(self, shards: Path) -> None:
        before = open_dataset(str(shards)).digest()
        assert open_dataset(str(shards.rename(shards.with_name("moved")))).digest() == before

    @pytest.mark.parametrize(
        "change", ["a picture", "a label", "the order", "one row less", "a name", "a split"]
    )
    def test_every_change_changes_the_digest(self, root: Path, shards: Path, change: str) -> None:
        before = open_dataset(str(shards)).digest()
        (path,) = (path for path in shards.iterdir() if path.stem == "train-000001")
        rows = rows_of(root / "train")[20:]
        if change == "a picture":
            rows[3] = (rows[3][0] + b"\0", *rows[3][1:])
        elif change == "a label":
            rows[3] = (rows[3][0], "dog" if rows[3][1] == "cat" else "cat", rows[3][2])
        elif change == "the order":
            rows[3], rows[4] = rows[4], rows[3]
        elif change == "one row less":
            del rows[3]
        write(path, rows)
        if change == "a name":
            path.rename(path.with_stem("train-000007"))
        elif change == "a split":
            path.rename(path.with_stem("test-000007"))
        assert open_dataset(str(shards)).digest() != before

    def test_pictures_are_hashed_once_and_not_at_every_command(
        self, shards: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = open_dataset(str(shards)).digest()
        monkeypatch.setattr(Packed, "_file_digest", lambda self, path: pytest.fail("hashed again"))
        assert open_dataset(str(shards)).digest() == before

    def test_a_shard_that_changes_after_its_digest_is_refused(self, root: Path, shards: Path) -> None:
        dataset = open_dataset(str(shards))
        dataset.digest()
        (path,) = (path for path in shards.iterdir() if path.stem == "test-000000")
        write(path, rows_of(root / "test")[::-1])
        with pytest.raises(UserError, match=f"{path} has changed since its digest was taken; run this again"):
            dataset.images("test", 0, 5, 32)

    @pytest.mark.parametrize("content", [b"no picture", b""])
    def test_an_unreadable_picture_is_named(self, root: Path, shards: Path, content: bytes) -> None:
        (path,) = (path for path in shards.iterdir() if path.stem == "train-000001")
        rows = rows_of(root / "train")[20:]
        rows[3] = (content, *rows[3][1:])
        write(path, rows)
        with pytest.raises(
            UserError, match=rf"cannot read the image {path}, 0+3: expected a whole"
        ) as caught:
            open_dataset(str(shards)).images("train", 0, 36, 32)
        assert "0x" not in str(caught.value)

    def test_a_shard_whose_name_is_no_utf_8_is_refused_in_ascii(self, shards: Path) -> None:
        suffix = next(shards.iterdir()).suffix
        (shards / f"train-\udce9{suffix}").write_bytes(b"x")
        with pytest.raises(UserError, match=r"train-.udce9\.\w+': not a UTF-8 name; rename it"):
            open_dataset(str(shards))

    def test_a_shard_cut_short_is_named(self, shards: Path) -> None:
        (path,) = (path for path in shards.iterdir() if path.stem == "train-000001")
        path.write_bytes(path.read_bytes()[:9000])
        with pytest.raises(UserError, match=f"^{path}: expected a whole .* file, .*got: .*; fetch it again$"):
            open_dataset(str(shards))

    def test_a_shard_of_no_split_is_named(self, shards: Path) -> None:
        (path,) = (path for path in shards.iterdir() if path.stem == "test-000000")
        path = path.rename(path.with_stem("testing-0"))
        with pytest.raises(UserError, match=f"^{path}: its name gives no split.* names like train-00000"):
            open_dataset(str(shards))

    def test_without_train_there_is_nothing_to_learn_from(self, shards: Path) -> None:
        for path in shards.glob("train-*"):
            path.unlink()
        with pytest.raises(UserError, match=f"^{shards} has no train shards; expected names like"):
            open_dataset(str(shards))

    def test_a_folder_with_classes_is_one_of_pictures_whatever_lies_beside_them(self, root: Path) -> None:
        before = Folder(root).digest()
        write_tar(root / "train.tar", rows_of(root / "train"))
        assert open_dataset(str(root)).digest() == before

    def test_too_little_is_refused_by_name(self, root: Path, shards: Path) -> None:
        (path,) = (path for path in shards.iterdir() if path.stem == "test-000000")
        write(path, [row for row in rows_of(root / "test") if row[1] != "dog"])
        with pytest.raises(UserError, match="'dog' has 0 images in test, expected at least 1; add images or"):
            open_dataset(str(shards))

    @pytest.mark.slow
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_they_go_all_the_way(self, project: Project, suffix: str) -> None:
        shards = str(write_shards(project.images, suffix))
        assert project("features", "--dataset", shards)[0] == 0
        assert "cached and verified" in project("features", "--dataset", shards)[2]
        assert project("train", "--dataset", shards, "--head", "centroid")[0] == 0
        assert project("verify", "--dataset", shards)[0] == 0
        assert project("evaluate", "--dataset", shards)[0] == 0
        (run,) = load_all(project.out / "runs")
        assert str(Pictures(run.dataset).uri("test", 0)).startswith("data:image")


class TestParquet:
    def test_labels_may_be_texts(self, root: Path) -> None:
        rows = rows_of(root / "train")
        columns = {"img": [content for content, *_ in rows], "label": [label for _, label, _ in rows]}
        dataset = open_dataset(str(write_parquet(root.with_name("x.parquet"), columns)))
        assert dataset.class_names == ("cat", "dog", "eel")
        assert dataset.images("train", 0, 5, 32).std() > 1

    def test_numbers_without_names_are_their_own(self, root: Path) -> None:
        rows = rows_of(root / "train")
        columns = {
            "image": [{"bytes": content, "path": None} for content, *_ in rows],
            "label": [{"cat": 2, "dog": 10, "eel": 0}[label] for _, label, _ in rows],
        }
        dataset = open_dataset(str(write_parquet(root.with_name("x.parquet"), columns)))
        assert dataset.class_names == ("0", "2", "10")

    def test_class_names_stand_in_the_order_of_their_numbers(self, root: Path) -> None:
        rows = rows_of(root / "train")
        names = ["eel", "cat", "dog"]
        columns = {
            "image": [{"bytes": content, "path": None} for content, *_ in rows],
            "label": [names.index(label) for _, label, _ in rows],
        }
        about = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        dataset = open_dataset(str(write_parquet(root.with_name("x.parquet"), columns, about)))
        assert dataset.class_names == ("eel", "cat", "dog")
        assert np.bincount(dataset.labels("test")).tolist() == [2, 2, 2]

    def test_class_names_that_are_none_are_passed_over(self, root: Path) -> None:
        rows = rows_of(root / "train")
        columns = {"image": [content for content, *_ in rows], "label": [label for _, label, _ in rows]}
        about = {"info": {"features": {"label": {"names": ["cat", "\ud800", "eel"]}}}}
        dataset = open_dataset(str(write_parquet(root.with_name("x.parquet"), columns, about)))
        assert dataset.class_names == ("cat", "dog", "eel")

    @pytest.mark.parametrize("label", [-1, 3, None, True, 0.5])
    def test_a_label_that_is_no_class_is_named(self, root: Path, label: object) -> None:
        rows = rows_of(root / "train")
        columns = {"image": [content for content, *_ in rows], "label": [label] * len(rows)}
        about = {"info": {"features": {"label": {"names": ["cat", "dog", "eel"]}}}}
        path = write_parquet(root.with_name("x.parquet"), columns, about)
        with pytest.raises(
            UserError, match=rf"^{path}, row 0: expected a class number from 0 to 2, got {label}"
        ):
            open_dataset(str(path))

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            (
                {"picture": [b""], "label": [0]},
                "expected image .* and label, or path and label .*; got picture, label",
            ),
            ({"image": [b""], "class": [0]}, "got image, class"),
            ({"image": ["a.png"], "label": [0]}, "got image: string"),
        ],
    )
    def test_other_columns_are_named(self, tmp_path: Path, columns: dict[str, Any], message: str) -> None:
        path = write_parquet(tmp_path / "x.parquet", columns)
        with pytest.raises(UserError, match=rf"^{path}: .*{message}"):
            open_dataset(str(path))

    def test_a_list_of_files_names_its_rows(self, tmp_path: Path) -> None:
        path = write_parquet(tmp_path / "x.parquet", {"path": ["gone.png"], "label": ["cat"]})
        with pytest.raises(UserError, match=rf"^{path}, row 0: no such file: .*gone\.png"):
            open_dataset(str(path))

    def test_no_row_group_is_decoded_twice_on_the_way(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write_pictures(root.with_name("x.parquet"), rows_of(root / "train"))
        from pyarrow.parquet import ParquetFile

        asked: list[int] = []
        iter_batches = ParquetFile.iter_batches

        def counted(self: Any, rows: int, groups: list[int], columns: list[str]) -> Any:
            asked.extend(groups)
            return iter_batches(self, rows, groups, columns)

        monkeypatch.setattr(ParquetFile, "iter_batches", counted)
        dataset = open_dataset(str(path))
        for row in range(len(dataset.labels("train"))):
            dataset.images("train", row, row + 1, 32)
        assert asked == [0, 1, 2, 3, 4, 5]

    def test_a_row_group_is_not_held_whole(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parquet, "ROWS", 4)
        path = write_pictures(root.with_name("x.parquet"), rows_of(root / "train"), row_group_size=100)
        reader = parquet.ParquetShard(path).open()
        for row in (0, 5, 35, 1):
            assert reader.read(row) == rows_of(root / "train")[row][0]
            assert len(reader._pictures) == 4  # type: ignore[attr-defined]
        reader.close()

    def test_without_pyarrow_a_line_says_how_to_install_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("pyarrow", "pyarrow.parquet"):
            monkeypatch.setitem(sys.modules, name, None)
        (tmp_path / "x.parquet").touch()
        with pytest.raises(
            UserError, match=r"pyarrow, which is not installed; run: .* requirements-parquet\.txt$"
        ):
            open_dataset(str(tmp_path / "x.parquet"))

    def test_what_is_no_parquet_is_named(self, tmp_path: Path) -> None:
        pytest.importorskip("pyarrow", reason="pyarrow is not installed: requirements-parquet.txt")
        (tmp_path / "x.parquet").write_bytes(b"PAR2")
        with pytest.raises(UserError, match=r"x\.parquet: expected a whole Parquet file, got: "):
            open_dataset(str(tmp_path / "x.parquet"))


class TestTar:
    def members(self, root: Path) -> list[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = []
        for number, (content, label, name) in enumerate(rows_of(root / "train")):
            key = f"some/folder.d/{number}"
            found += [(f"{key}{Path(name).suffix.upper()}", content), (f"{key}.cls", label.encode())]
        return found

    def test_labels_may_stand_in_json(self, root: Path) -> None:
        members = [
            (
                name.replace(".cls", ".json"),
                b'{"label": "%s", "more": 1}' % content if name.endswith(".cls") else content,
            )
            for name, content in self.members(root)
        ]
        dataset = open_dataset(str(write_members(root.with_name("x.tar"), members)))
        assert dataset.class_names == ("cat", "dog", "eel")
        assert dataset.ids("train")[0].startswith("x/some/folder.d/")

    def test_classes_that_are_numbers_stand_in_their_order(self, root: Path) -> None:
        number = {b"cat": b"2\n", b"dog": b"10\n", b"eel": b"0\n"}
        members = [(name, number.get(content, content)) for name, content in self.members(root)]
        dataset = open_dataset(str(write_members(root.with_name("x.tar"), members)))
        assert dataset.class_names == ("0", "2", "10")

    def test_other_members_are_left_out_and_counted(self, root: Path) -> None:
        members = [*self.members(root), ("0.txt", b"words"), ("README", b""), ("0.mask.png", b"")]
        dataset = open_dataset(str(write_members(root.with_name("x.tar"), members)))
        assert dataset.note.endswith("3 other files in the shards left out")

    @pytest.mark.parametrize(
        ("extra", "message"),
        [
            (("z.jpg", b"x"), r"x\.tar, z: no label; expected key\.jpg"),
            (("z.cls", b"cat"), r"x\.tar, z: a label but no image; expected key\.jpg"),
            (("some/folder.d/0.jpeg", b"x"), r"x\.tar, some/folder\.d/0: two images with one key"),
        ],
    )
    def test_what_does_not_pair_up_is_named(self, root: Path, extra: tuple[str, bytes], message: str) -> None:
        path = write_members(root.with_name("x.tar"), [*self.members(root), extra])
        with pytest.raises(UserError, match=message):
            open_dataset(str(path))

    @pytest.mark.parametrize("label", [b"[" * 100_000, rb'{"label": "\ud800"}', b"\xff"])
    def test_what_no_class_can_be_called_is_no_label(self, root: Path, label: bytes) -> None:
        members = [*self.members(root), ("z.jpg", b"x"), ("z.json", label)]
        path = write_members(root.with_name("x.tar"), members)
        with pytest.raises(UserError, match=r"x\.tar, z: no label; expected key\.jpg"):
            open_dataset(str(path))

    def test_a_name_that_is_no_utf_8_is_refused_in_ascii(self, root: Path) -> None:
        path = write_members(root.with_name("x.tar"), [*self.members(root), ("caf\udce9.jpg", b"x")])
        with pytest.raises(UserError, match=r"x\.tar, 'caf.udce9\.jpg': not a UTF-8 name; rename it"):
            open_dataset(str(path))

    @pytest.mark.parametrize("kind", ["a link", "a sparse file"])
    def test_links_and_sparse_files_are_no_pictures(self, root: Path, kind: str) -> None:
        path = write_members(root.with_name("x.tar"), self.members(root))
        with tarfile.open(path, "a") as archive:
            member = tarfile.TarInfo("z.jpg")
            if kind == "a link":
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:  # GNU tar's format 0.1, which says that there are many bytes before the first
                member.pax_headers = {"GNU.sparse.map": f"{1 << 40},0", "GNU.sparse.size": str(1 << 40)}
            archive.addfile(member)
        assert open_dataset(str(path)).note.endswith("1 other files in the shards left out")

    def test_a_label_that_is_larger_than_any_is_none(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(webdataset, "MAX_LABEL", 2)
        path = write_members(root.with_name("x.tar"), self.members(root))
        with pytest.raises(UserError, match=r"x\.tar, some/folder\.d/\d+: no label"):
            open_dataset(str(path))

    def test_no_more_is_read_than_there_is(self, root: Path) -> None:
        """Where the shard has become shorter since it was indexed."""
        path = write_members(root.with_name("x.tar"), self.members(root))
        assert webdataset._Pictures(path, [(0, 1 << 60)]).read(0) == path.read_bytes()

    def test_a_pipe_in_the_place_of_an_indexed_shard_is_not_waited_for(self, root: Path) -> None:
        path = write_members(root.with_name("x.tar"), self.members(root))
        reader = webdataset.TarShard(path).open()
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(UserError, match=r"cannot read .*x\.tar: Not a regular file"):
            reader.read(0)

    def test_a_damaged_header_is_not_taken_for_the_end(self, root: Path) -> None:
        path = write_members(root.with_name("x.tar"), self.members(root))
        content = bytearray(path.read_bytes())
        content[content.index(b"some/folder.d/30.")] ^= 1
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"expected a whole tar file, not compressed; got: bad header at"):
            open_dataset(str(path))

    @pytest.mark.parametrize("content", [b"\x1f\x8bno tar", b""])
    def test_what_is_no_tar_is_named(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "x.tar").write_bytes(content)
        with pytest.raises(UserError, match=r"x\.tar: expected a whole tar file, not compressed; got: \w+"):
            open_dataset(str(tmp_path / "x.tar"))

    def test_headers_are_read_once_and_not_at_every_command(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shards = write_shards(root, ".tar")
        before = open_dataset(str(shards))
        before.digest()
        monkeypatch.setattr(webdataset, "_index", lambda path: pytest.fail(f"{path} is read again"))
        again = open_dataset(str(shards))
        assert again.digest() == before.digest()
        for split in SPLITS:
            assert again.ids(split) == before.ids(split)
            assert np.array_equal(again.images(split, 0, 12, 32), before.images(split, 0, 12, 32))
        os.utime(shards / "train-000000.tar", ns=(1, 1))
        with pytest.raises(pytest.fail.Exception, match=r"train-000000\.tar is read again"):
            open_dataset(str(shards))

    def test_a_label_that_changes_at_equal_size_and_time_is_seen_by_a_fresh_digest(self, root: Path) -> None:
        path = write_shards(root, ".tar") / "train-000000.tar"
        before = open_dataset(str(path.parent)).labels("train")
        stat, content = path.stat(), path.read_bytes()
        path.write_bytes(content.replace(b"cat" + bytes(509), b"dog" + bytes(509), 1))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        dataset = open_dataset(str(path.parent))
        assert np.array_equal(dataset.labels("train"), before), "the one stated exception to trusting content"
        with pytest.raises(
            UserError, match=r"train-000000\.tar has changed, but its size and time have not; run"
        ):
            dataset.digest(fresh=True)
        assert (open_dataset(str(path.parent)).labels("train") != before).sum() == 1
