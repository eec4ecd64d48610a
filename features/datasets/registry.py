"""Datasets by name, path or URL."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from features.datasets.base import Dataset
from features.datasets.bucket import Bucket, BucketObject, bucket_url, is_url
from features.datasets.cifar import ARCHIVED, Cifar10, Cifar100
from features.errors import UserError
from features.files import given_path


@dataclass(frozen=True)
class Asked:
    """How a dataset is to be opened.

    Attributes
    ----------
    limit : images per split, stratified; None is all of them.
    archive : path of the archive to read, as in ``ARCHIVE=``; None: look for it.
    offline : download nothing.
    remembered : paths at which the archive was found before.
    skip_unreadable : leave out images that cannot be read.
    """

    limit: int | None = None
    archive: str | None = None
    offline: bool = False
    remembered: tuple[str, ...] = ()
    skip_unreadable: bool = False


Opener = Callable[[Asked], Dataset]


def _cifar(kind: type[Cifar10], asked: Asked) -> Dataset:
    return kind(asked.archive, asked.limit, offline=asked.offline, remembered=asked.remembered)


def _digits(asked: Asked) -> Dataset:
    from features.datasets.digits import Digits

    return Digits(asked.limit)


def _by_path(path: Path, asked: Asked) -> Dataset:
    """The dataset at a path: a folder of images or shards, a shard, or a list of image files."""
    from features.datasets.filelist import csv_list
    from features.datasets.folder import Folder
    from features.datasets.packed import shards_in
    from features.datasets.parquet import parquet_dataset
    from features.datasets.webdataset import web_dataset

    readers = {".csv": csv_list, ".parquet": parquet_dataset, ".tar": web_dataset}
    if path.is_file():
        return readers[path.suffix.lower()](path, asked.limit, asked.skip_unreadable)
    if not any(entry.is_dir() and not entry.name.startswith(".") for entry in path.iterdir()):
        for suffix in (".parquet", ".tar"):
            if shards_in(path, suffix):
                return readers[suffix](path, asked.limit, asked.skip_unreadable)
    return Folder(path, asked.limit, asked.skip_unreadable)


def _in_bucket(url: str, asked: Asked) -> Dataset:
    """The dataset in a bucket: a list of image files, or class folders."""
    from features.datasets.filelist import csv_list
    from features.datasets.folder import Folder

    root, _, name = url.rpartition("/")
    suffix = Path(name).suffix.lower()
    if suffix == ".csv":
        return csv_list(BucketObject(Bucket(root), name), asked.limit, asked.skip_unreadable)
    if suffix in FILES:
        raise UserError(
            f"dataset={url}: in a bucket, expected train/<class>/ and test/<class>/ (or <class>/ alone) or a "
            f".csv; got a {suffix} file; copy it to this machine"
        )
    return Folder(Bucket(url), asked.limit, asked.skip_unreadable)


FILES = (".csv", ".parquet", ".tar")  # suffixes of datasets in single files, in lower case


# Datasets by the name that ``DATASET=`` takes. Register another with ``DATASETS["mine"] = opener``, where
# opener maps an ``Asked`` to a ``Dataset`` with that limit.
DATASETS: dict[str, Opener] = {
    "cifar10": partial(_cifar, Cifar10),
    "cifar100": partial(_cifar, Cifar100),
    "digits": _digits,
}


def source_of(dataset: str) -> str:
    """The ``Dataset.source`` that this ``DATASET=`` will have; opens no image.

    Raises
    ------
    UserError
        ``dataset`` is empty, or neither a registered name, nor the path of an existing folder or file, nor
        the URL of a bucket (whose existence is not checked).
    """
    if dataset in DATASETS:
        return dataset
    if is_url(dataset):
        return bucket_url(dataset)
    if dataset:
        path = given_path("dataset", dataset)
        try:
            if path.is_dir() or (path.suffix.lower() in FILES and path.is_file()):
                return str(path.resolve())
        except OSError as error:
            raise UserError(f"dataset={dataset}: cannot be read: {error.strerror}; name another") from None
    raise UserError(
        f"{f'unknown dataset {dataset!r}' if dataset else 'dataset= is empty'}: expected "
        f"{', '.join(DATASETS)}, or the path of a folder with train/<class>/ and test/<class>/ "
        "(or <class>/ alone) or with .parquet or .tar shards, or of a .csv, .parquet or .tar file, or "
        "s3://bucket/prefix"
    )


def is_place(source: str) -> bool:
    """Whether a source is a path or URL rather than a registered name."""
    return is_url(source) or Path(source).is_absolute()


def open_dataset(
    dataset: str,
    archive: str | None = None,
    limit: int | None = None,
    offline: bool = False,
    remembered: Iterable[str] = (),
    skip_unreadable: bool = False,
) -> Dataset:
    """Open a dataset by its name in ``DATASETS``, or by the path of a folder, list or shards.

    Parameters
    ----------
    dataset : a name, or a folder with ``train/<class>/`` and ``test/<class>/``, or ``<class>/`` alone;
        a CSV or Parquet list of paths and labels; Parquet or tar shards that contain the images; or
        ``s3://bucket/prefix`` with such folders or ``s3://bucket/list.csv``.
    archive : path of the archive, for datasets in an archive; None: look for it.
    limit : images per split, stratified; None: all.
    offline : download nothing.
    remembered : paths at which the archive was found before.
    skip_unreadable : leave out images that cannot be read (``Dataset.left_out`` lists them) instead of
        stopping at the first one.

    Returns
    -------
    Dataset
        Labels and ids are known; images are read on demand.

    Raises
    ------
    UserError
        There is no such dataset, its files cannot be obtained or read, or ``limit`` leaves a class with too
        few images.

    Examples
    --------
    >>> from features import open_dataset
    >>> digits = open_dataset("digits", limit=100)
    >>> digits.images("train", 0, 4, 32).shape
    (4, 32, 32, 3)
    """
    source = source_of(dataset)
    if limit is not None and limit < 1:
        raise UserError(f"limit={limit}: expected a positive number of images per split")
    if archive is not None and source not in ARCHIVED:
        raise UserError(
            f"archive= belongs to dataset={' or '.join(ARCHIVED)}, not to {dataset!r}; leave it out"
        )
    if source in DATASETS:
        opener = DATASETS[source]
    else:
        opener = partial(_in_bucket, source) if is_url(source) else partial(_by_path, Path(source))
    try:
        opened = opener(Asked(limit, archive, offline, tuple(remembered), skip_unreadable))
    except OSError as error:
        raise UserError(
            f"dataset={dataset}: cannot read {error.filename or source}: {error.strerror}; fix that or "
            "name another"
        ) from None
    opened.source = source  # by which a later command finds its cache
    return opened
