"""Shared by all tests: no network, a cache folder of their own, small real pictures and weights."""

from __future__ import annotations

import io
import pickle
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from features.backbones import vgg16 as vgg16_weights
from features.backbones.extractor import VGG16
from features.datasets.cifar import CIFAR10, Official
from pipeline.__main__ import main
from reports.page import render
from tests import stand_in

Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every test has its own caches, and only loopback sockets open."""
    monkeypatch.setenv("HEADROOM_CACHE", str(tmp_path / "headroom-cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras-home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1"):
            raise OSError(f"tests reach no network ({address[0]})")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    resolve = socket.getaddrinfo

    def local(host: Any, *rest: Any, **more: Any) -> Any:
        if host not in ("127.0.0.1", "localhost", "::1", None):
            raise socket.gaierror(socket.EAI_NONAME, "tests reach no network")
        return resolve(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", local)


@pytest.fixture(scope="session")
def weights_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random tensors of VGG16's shapes, scaled so that activations neither vanish nor explode."""
    rng = np.random.default_rng(7)
    tensors = {}
    for name, (inputs, outputs) in vgg16_weights.CONVOLUTIONS.items():
        scale = np.sqrt(2 / (9 * inputs))
        kernel = rng.standard_normal((3, 3, inputs, outputs), dtype=np.float32) * np.float32(scale)
        tensors[f"{name}/kernel"] = kernel
        tensors[f"{name}/bias"] = np.full(outputs, 0.01, np.float32)
    path = tmp_path_factory.mktemp("weights") / "random.h5"
    vgg16_weights.save(tensors, path)
    return str(path)


def picture(rng: np.random.Generator, label: int, side: int = 40) -> Image.Image:
    """A noisy picture whose colour tells its class."""
    base = np.array([40 + 80 * label % 200, 200 - 60 * label % 200, 120 * (label % 2)])
    pixels = base + rng.normal(0, 40, (side, side, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Build an image folder: ``make_folder({"train": 8, "test": 3}, classes=("cat", "dog"))``."""

    def make(
        splits: dict[str, int] | int, classes: tuple[str, ...] = ("cat", "dog", "eel"), name: str = "pets"
    ) -> Path:
        root = tmp_path / name
        rng = np.random.default_rng(3)
        counts = splits if isinstance(splits, dict) else {"": splits}
        for split, count in counts.items():
            for label, class_name in enumerate(classes):
                folder = root / split / class_name
                folder.mkdir(parents=True)
                for number in range(count):
                    suffix = "png" if number % 3 == 0 else "jpg"
                    picture(rng, label).save(folder / f"{number:03d}.{suffix}")
        return root

    return make


@pytest.fixture
def make_archive(tmp_path: Path) -> Callable[..., Path]:
    """Build a small archive of CIFAR in the official layout, ``rows`` images a batch."""

    def make(
        rows: int = 20, poison: bytes | None = None, leave_out: str = "", official: Official = CIFAR10
    ) -> Path:
        rng = np.random.default_rng(5)
        path = tmp_path / official.file
        with tarfile.open(path, "w:gz") as archive:
            for name in [name for names in official.batches.values() for name in names]:
                batch = {
                    b"data": rng.integers(0, 256, (rows, 3072), dtype=np.uint8),
                    official.label_key: [row % len(official.class_names) for row in range(rows)],
                    b"filenames": [b"x.png"] * rows,
                }
                content = poison or pickle.dumps(batch, protocol=2)
                member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                member.size = len(content)
                if name != leave_out:
                    archive.addfile(member, io.BytesIO(content))
        return path

    return make


class Project:
    """One folder of images, one set of weights, one OUT; commands run in this process."""

    def __init__(self, images: Path, weights: str, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.images, self.weights, self.out, self._capsys = images, weights, out, capsys
        self.common = [
            "--dataset",
            str(images),
            "--out",
            str(out),
            "--layers",
            "block4,block5",
            "--precision",
            "float32",
        ]

    def __call__(self, stage: str, *more: str, weights: bool = True) -> tuple[int, str, str]:
        given = ["--weights", self.weights] if weights and stage != "report" else []
        common = ["--out", str(self.out)] if stage == "report" else self.common
        code = main([stage, *common, *given, *more])
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    @property
    def cache(self) -> Path:
        (path,) = (self.out / "embeddings").glob("*.h5")
        return path


@pytest.fixture
def real_project(
    make_folder: Make, weights_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Project:
    """With the network itself."""
    images = make_folder({"train": 20, "test": 6}, classes=("cat", "dog"))
    return Project(images, weights_path, tmp_path / "out", capsys)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures of a report are made, but not drawn, which takes seconds."""
    monkeypatch.setattr(render, "_svg", stand_in.svg)
    monkeypatch.setattr(render, "_png", stand_in.png)


@pytest.fixture
def project(real_project: Project, undrawn: None, monkeypatch: pytest.MonkeyPatch) -> Project:
    """With a stand-in for the network, which takes seconds to build."""
    monkeypatch.setattr(VGG16, "embed", stand_in.embed)
    monkeypatch.setattr(vgg16_weights._VGG16, "load", stand_in.load)
    return real_project


@pytest.fixture
def cache(tmp_path: Path) -> Any:
    """The embeddings of the small group."""
    from tests.small_group import Cache

    return Cache(tmp_path)
