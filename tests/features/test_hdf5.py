"""What an HDF5 file may hold before a number of it is read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from features.backbones import vgg16 as vgg16_weights
from features.backbones.registry import BACKBONES
from features.cache.embeddings import Damaged, Embeddings
from features.cache.part import arrays, header_digest
from features.errors import UserError
from features.hdf5 import DEEPEST, open_hdf5, plain_datasets

EARLIER = Path(__file__).parents[1] / "data" / "earlier" / "embeddings"
ROWS = np.arange(1000, dtype=np.float32)


def link(file: h5py.File) -> None:
    file["bad"] = h5py.ExternalLink("pipe", "/x")  # which to open would wait for ever


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((1000,), np.float32)
    layout[:] = h5py.VirtualSource("pipe", "x", (1000,))
    file.create_virtual_dataset("bad", layout)


def external(file: h5py.File) -> None:
    file.create_dataset("bad", (1000,), np.float32, external=[("/etc/passwd", 0, 4000)])


def plug_in(file: h5py.File) -> None:
    file.create_dataset("bad", data=ROWS, compression="lzf")


def texts(file: h5py.File) -> None:
    file.create_dataset("bad", data=["a", "b"], dtype=h5py.string_dtype())


def endless(file: h5py.File) -> None:
    file.create_dataset("bad", (1 << 44,), np.float32, chunks=(1024,))


def lumps(file: h5py.File) -> None:
    chunks, sides = (1 << 29,), (None,)
    bad = file.create_dataset("bad", (1000,), np.float32, chunks=chunks, maxshape=sides, compression="gzip")
    bad.id.write_direct_chunk((0,), b"0000")


def nested(file: h5py.File) -> None:
    file["/".join(["bad"] * (DEEPEST + 2))] = ROWS


BAD: dict[Callable[[h5py.File], None], str] = {
    link: "a link to another file at /bad",
    virtual: "lies in another file at /bad",
    external: "lies in another file at /bad",
    plug_in: r"only a plug-in of HDF5 reads \(filter 32000\) at /bad",
    texts: "items of variable length at /bad",
    endless: r"a dataset of shape \(17592186044416,\)",
    lumps: r"in chunks of shape \(536870912,\), larger than itself",
    nested: "nested too deep at /bad/bad",
}


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_what_leads_elsewhere_or_grows_is_named(make: Callable[..., None], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as file:
        file["good"] = ROWS
        make(file)
    with open_hdf5(path) as file, pytest.raises(UserError, match=rf"file\.h5: expected .*{BAD[make]}"):
        plain_datasets(file, path)


def test_each_object_is_visited_once(tmp_path: Path) -> None:
    """Else each of ten links from a group to itself is followed ten times ten times ten times..."""
    path = tmp_path / "loops.h5"
    with h5py.File(path, "w") as file:
        file["group/rows"] = ROWS
        file.create_dataset("zipped", data=ROWS, compression="gzip", shuffle=True, fletcher32=True)
        file["soft"] = h5py.SoftLink("/soft")
        for number in range(10):
            file[f"group/{number}"] = file["group"]
            file[f"root{number}"] = file["/"]
    with open_hdf5(path) as file:
        assert sorted(plain_datasets(file, path)) == ["/group/rows", "/zipped"]


@pytest.mark.parametrize("network", ["vgg16", "mobilenetv2"])
def test_weights_are_looked_at_before_they_are_read(network: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        link(file)
    with pytest.raises(UserError, match=r"weights\.h5: expected .* got a link to another file at /bad"):
        BACKBONES[network].load(str(path))


def test_a_tensor_larger_than_its_network_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.h5"
    with h5py.File(path, "w") as file:
        zeros = file.create_dataset("zeros", (6_000_000,), np.float32, chunks=True, compression="gzip")
        zeros[:] = 0
    with pytest.raises(UserError, match=r"tensors of 18,\d+,\d+ bytes together, got /zeros of shape"):
        BACKBONES["mobilenetv2"].load(str(path))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    (path,) = EARLIER.iterdir()
    return Path(shutil.copy(path, tmp_path))


@pytest.mark.parametrize("place", ["train", "train/labels"])
def test_an_embeddings_file_with_a_link_out_of_it_is_damaged(cache: Path, tmp_path: Path, place: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with h5py.File(cache, "a") as file:
        del file[place]
        file[place] = h5py.ExternalLink(str(tmp_path / "pipe"), "/x")
    with pytest.raises(Damaged, match=f"holds {place}, which is not a plain dataset"):
        Embeddings(cache)


def test_an_embeddings_file_that_declares_more_than_it_stores_is_damaged(cache: Path) -> None:
    with h5py.File(cache, "a") as file:
        proof = file["train/labels"].attrs["sha256"]
        del file["train/labels"]
        endless = file.create_dataset("train/labels", (1 << 44,), np.int64, chunks=(1024,))
        endless.attrs["sha256"] = proof
        file.attrs["sha256"] = header_digest(file.attrs, dict(arrays(file)))
    with pytest.raises(Damaged, match=r"shape \(17592186044416,\) .* as train/labels; compute it again"):
        Embeddings(cache)


def test_hard_links_of_weights_to_themselves_are_no_riddle(weights_path: str, tmp_path: Path) -> None:
    path = tmp_path / "loops.h5"
    path.write_bytes(Path(weights_path).read_bytes())
    with h5py.File(path, "a") as file:
        for number in range(12):
            file[f"again{number}"] = file["/"]
    assert vgg16_weights.load(str(path)).digest == vgg16_weights.load(weights_path).digest
