"""Picture files put into lists, Parquet and tars, as other tools write them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.datasets.images import SUFFIXES

Row = tuple[bytes, str, str]  # a picture's bytes, its class, its file's name


def listed(root: Path, split: bool = True) -> list[tuple[str, str, str]]:
    """Path, class and split of each picture of a folder, mixed, as a list has them."""
    files = sorted(path for path in root.rglob("*") if path.suffix in SUFFIXES)
    rows = [
        (str(path.relative_to(root.parent)), path.parent.name, path.parent.parent.name * split)
        for path in files
    ]
    return [rows[place] for place in np.random.default_rng(5).permutation(len(rows))]


def rows_of(root: Path) -> list[Row]:
    """The pictures of a folder of ``<class>/``, mixed."""
    return [
        ((root.parent / path).read_bytes(), label, Path(path).name) for path, label, _ in listed(root, False)
    ]


def write_shards(root: Path, suffix: str) -> Path:
    """A folder of pictures as shards: train in two and test in one, or one file where it has no splits."""
    write = write_pictures if suffix == ".parquet" else write_tar
    if not (root / "train").is_dir():
        return write(root.with_name("all" + suffix), rows_of(root))
    target = root.with_name("shards")
    target.mkdir()
    train = rows_of(root / "train")
    write(target / f"train-000000{suffix}", train[:20])
    write(target / f"train-000001{suffix}", train[20:])
    write(target / f"test-000000{suffix}", rows_of(root / "test"))
    return target


def write_parquet(path: Path, columns: dict[str, Any], metadata: Any = None, **options: Any) -> Path:
    """Columns of Python values as Parquet; without pyarrow the test is skipped."""
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: requirements-parquet.txt")
    from pyarrow import parquet

    table = pyarrow.table(columns)
    if metadata is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    parquet.write_table(table, path, **options)
    return path


def write_pictures(path: Path, rows: Sequence[Row], row_group_size: int = 7) -> Path:
    """Pictures and class numbers, with class names in the metadata, as ``datasets`` writes them."""
    names = ["cat", "dog", "eel"] if any(label == "eel" for _, label, _ in rows) else ["cat", "dog"]
    columns = {
        "image": [{"bytes": content, "path": name} for content, _, name in rows],
        "label": [names.index(label) for _, label, _ in rows],
    }
    about = {"info": {"features": {"image": {"_type": "Image"}, "label": {"names": names}}}}
    return write_parquet(path, columns, about, row_group_size=row_group_size)


def write_tar(path: Path, rows: Iterable[Row]) -> Path:
    """Pictures as a WebDataset: ``key.jpg`` or ``key.png``, and ``key.cls``."""
    members: list[tuple[str, bytes]] = []
    for number, (content, label, name) in enumerate(rows):
        members += [(f"{number:04d}{Path(name).suffix}", content), (f"{number:04d}.cls", label.encode())]
    return write_members(path, members)


def write_members(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """A tar file of these members."""
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path
