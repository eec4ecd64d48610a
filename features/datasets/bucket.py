"""Objects in an S3 bucket as the files of a dataset; all that is asked of s3fs, and fsspec below it."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import posixpath
import re
import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.datasets.storage import Stamp
from features.errors import UserError

SCHEME = "s3://"
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html; older names have more letters.
PLACE = re.compile(r"s3://[A-Za-z0-9][\w.-]{1,253}[A-Za-z0-9](/.*)?", re.ASCII)
THREADS = 32  # objects that are read at once: a small one is little but latency
LARGEST = 256 << 20  # bytes of an object, which is read whole
CONNECT = 4.0  # seconds until the server has answered a connection,
SILENT = 15.0  # and until the next byte of an answer
ATTEMPTS = 4  # at each request; with the pauses between them, 30 s where nobody answers
BODIES = 3  # attempts at an object whose connection breaks while it is read
INSTALL = ".venv/bin/python -m pip install -r requirements-s3.txt"
KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
GONE = ("NoSuchKey", "404")


def is_url(text: str) -> bool:
    """Whether this is meant as a place on a network."""
    return "://" in text


def bucket_url(text: str) -> str:
    """``s3://bucket/prefix`` as it is kept: without ``/`` at its end.

    Raises
    ------
    UserError
        It is another URL, or none. It is not repeated, as there may be keys in it.
    """
    if not PLACE.fullmatch(text) or not text.isprintable():
        raise UserError(
            "dataset= is a URL, but none of a bucket: expected s3://bucket/prefix or s3://bucket/list.csv, "
            f"without user, key or port; keys belong in the environment ({KEYS}), another server in "
            "AWS_ENDPOINT_URL"
        )
    return text.rstrip("/")


@dataclass
class Bucket:
    """Objects below a prefix, listed once; a :class:`~features.datasets.storage.Storage`.

    An object's stamp is its size and 63 bits of a digest of its ETag and time of change. An answer holds
    them beside the bytes, so what is read is proved to be what was listed, without a request more.

    Parameters
    ----------
    root : ``s3://bucket/prefix``.

    Raises
    ------
    UserError
        By all methods: s3fs is not installed, the bucket is not there, the credentials do not suffice or
        nobody answers.
    """

    root: str
    # the names of each folder's objects, ascending, and their stamps, (n, 2)
    _listed: dict[str, tuple[list[str], NDArray[np.int64]]] = field(default_factory=dict, repr=False)

    threads = THREADS
    far = True

    def __str__(self) -> str:
        return self.root

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "_listed": {}}

    @property
    def name(self) -> str:
        return self.root.rpartition("/")[2]

    def folders(self, path: str = "") -> list[str]:
        prefix = self._place(path)[1]
        start = prefix and f"{prefix}/"
        found = (one["Prefix"] for page in self._pages(path) for one in page.get("CommonPrefixes", []))
        names = (one[len(start) :].rstrip("/") for one in found)
        return sorted(name for name in names if name and not name.startswith("."))

    def files(self, folders: Sequence[str]) -> Iterator[list[str]]:
        with ThreadPoolExecutor(self.threads) as pool:
            for folder, listed in zip(folders, pool.map(self._list, folders), strict=True):
                self._listed[self.where(folder)] = listed
                yield listed[0]

    def normal(self, path: str) -> str:
        if not is_url(path):
            return posixpath.normpath(path)
        if not PLACE.fullmatch(path):
            raise UserError("a URL, but none of an object: expected s3://bucket/key, without user or port")
        return path

    def where(self, path: str) -> str:
        if path.startswith(SCHEME) or not path:
            return path or self.root
        bucket, prefix = self._place("")
        if path.startswith("../"):
            return f"{SCHEME}{bucket}{posixpath.normpath(posixpath.join('/', prefix, path))}"
        return f"{self.root}/{path}"

    def has(self, path: str) -> bool:
        try:
            self.stamp(path)
        except FileNotFoundError:
            return False
        return True

    def stamp(self, path: str) -> Stamp:
        where = self.where(path)
        folder, _, name = where.rpartition("/")
        if folder not in self._listed:
            self._listed[folder] = self._list(folder)
        names, stamps = self._listed[folder]
        row = bisect_left(names, name)
        if row == len(names) or names[row] != name:
            raise _no_object(where)
        return int(stamps[row, 0]), int(stamps[row, 1])

    def digest(self, path: str) -> str:
        return hashlib.sha256(self.read(path, self.stamp(path))).hexdigest()

    def at(self, path: str) -> BucketObject:
        return BucketObject(self, path, self.stamp(path) if self.has(path) else None)

    def read(self, path: str, stamp: Stamp | None = None) -> bytes:
        """The bytes of an object, which must be those that ``stamp`` is of.

        Raises
        ------
        UserError
            It has changed.
        OSError
            It is gone, or too large to be read whole.
        """
        where = self.where(path)
        bucket, key = self._place(path)
        for left in reversed(range(BODIES)):
            answer = _ask(where, "get_object", Bucket=bucket, Key=key)
            seen = int(answer["ContentLength"]), _change(answer["ETag"], answer["LastModified"])
            wanted = stamp in (None, seen) and seen[0] <= LARGEST
            try:
                content = _body(answer["Body"], wanted)
            except _failures() as error:
                if not left:
                    raise _refusal(where, error) from None
                continue
            if stamp not in (None, seen):
                raise UserError(f"{where} has changed since it was listed; run this again")
            if not wanted:
                text = f"an object of {seen[0]:,} bytes, expected at most {LARGEST:,}"
                raise OSError(errno.EFBIG, text, where)
            if len(content) == seen[0]:
                break
        else:
            raise UserError(f"{where}: the server ends before all of it has come; run this again")
        return content

    def _place(self, path: str) -> tuple[str, str]:
        """The bucket and the key of a path."""
        bucket, _, key = self.where(path).removeprefix(SCHEME).partition("/")
        return bucket, key

    def _list(self, folder: str) -> tuple[list[str], NDArray[np.int64]]:
        """The names of the objects in a folder, in ascending order, and their stamps."""
        prefix = self._place(folder)[1]
        start = len(prefix and f"{prefix}/")
        names, stamps = list[str](), list[Stamp]()
        for page in self._pages(folder):
            for one in page.get("Contents", []):
                if name := one["Key"][start:]:  # the folder itself may be an object, of no bytes
                    names.append(name)
                    stamps.append((one["Size"], _change(one["ETag"], one["LastModified"])))
        order = sorted(range(len(names)), key=names.__getitem__)
        return [names[row] for row in order], np.array(stamps, np.int64).reshape(-1, 2)[order]

    def _pages(self, folder: str) -> Iterator[dict[str, Any]]:
        """What is in a folder, by pages of 1,000 objects and folders."""
        bucket, prefix = self._place(folder)
        more: dict[str, str] = {}
        while True:
            page = _ask(
                self.where(folder),
                "list_objects_v2",
                Bucket=bucket,
                Prefix=prefix and f"{prefix}/",
                Delimiter="/",
                **more,
            )
            yield page
            if not page.get("IsTruncated") or not page.get("NextContinuationToken"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}


@dataclass(frozen=True)
class BucketObject:
    """An object, to be read; :class:`~features.datasets.images.Distant`.

    Attributes
    ----------
    bucket : what its path is relative to.
    path : where it is.
    stamp : what it must still be; None is not known.
    """

    bucket: Bucket
    path: str
    stamp: Stamp | None = None

    def __str__(self) -> str:
        return self.bucket.where(self.path)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def open(self) -> io.BytesIO:
        """Its bytes. Raises as :meth:`Bucket.read`."""
        return io.BytesIO(self.bucket.read(self.path, self.stamp))


_connecting = threading.Lock()
_connected: dict[str, Any] = {}  # by a digest of what the environment says


def _files() -> Any:
    """The connection of this process; where to and as whom is decided by its environment alone.

    Raises
    ------
    UserError
        s3fs is not installed.
    """
    if find_spec("s3fs") is None:
        raise UserError(f"buckets are read with s3fs, which is not installed; run: {INSTALL}")
    given = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    here = hashlib.sha256(repr(sorted(given.items())).encode()).hexdigest()
    with _connecting:
        if here not in _connected:
            from s3fs import S3FileSystem

            config = {
                "connect_timeout": CONNECT,
                "read_timeout": SILENT,
                "retries": {"mode": "standard", "total_max_attempts": ATTEMPTS},
                "max_pool_connections": THREADS,
            }
            _connected[here] = S3FileSystem(
                config_kwargs=config, use_listings_cache=False, skip_instance_cache=True
            )
            _connected[here].retries = 1  # botocore tries again
        return _connected[here]


def _ask(where: str, method: str, **about: str) -> dict[str, Any]:
    """An answer of the server.

    Raises
    ------
    FileNotFoundError
        There is no such object.
    UserError
        There is no such bucket, the server refuses, or nobody answers.
    """
    files = _files()
    try:
        answer: dict[str, Any] = files.call_s3(method, **about)
    except _failures() as error:
        raise _refusal(where, error) from None
    return answer


def _body(body: Any, wanted: bool) -> bytes:
    """What follows an answer's header; where it is not wanted, nothing of it."""
    from fsspec.asyn import sync

    async def read() -> bytes:
        try:
            return bytes(await body.read()) if wanted else b""
        finally:
            body.close()

    content: bytes = sync(_files().loop, read)
    return content


def _failures() -> tuple[type[Exception], ...]:
    """What s3fs raises where an answer is not what was hoped for."""
    from aiohttp import ClientError
    from botocore.exceptions import BotoCoreError

    return OSError, BotoCoreError, ClientError  # those of time-outs are OSErrors


def _refusal(where: str, error: Exception) -> Exception:
    """One line for a failure. It holds nothing that the server said but an error's code."""
    from botocore.exceptions import ClientError, NoCredentialsError, PartialCredentialsError

    cause = error if isinstance(error, ClientError) else error.__cause__
    code = str(cause.response["Error"].get("Code")) if isinstance(cause, ClientError) else ""
    if code in GONE:
        return _no_object(where)
    if code == "NoSuchBucket":
        bucket = where.removeprefix(SCHEME).partition("/")[0]
        return UserError(f"{where}: there is no bucket {bucket}; put the name right, or AWS_ENDPOINT_URL")
    if code:
        shown = code if re.fullmatch(r"\w{1,60}", code) else "an error of no name"
        return UserError(
            f"{where}: the server refuses to show it ({shown}); see that the keys in the environment "
            f"({KEYS}) are right, and may list and read there"
        )
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return UserError(f"{where}: there are no keys to the bucket; set {KEYS} in the environment")
    return UserError(
        f"{where}: the server does not answer ({type(error).__name__}); see that it can be reached from "
        "here, and AWS_ENDPOINT_URL where it is not Amazon's; then run this again"
    )


def _no_object(where: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "No such object", where)


def _change(etag: str, modified: datetime) -> int:
    """A number of 63 bits that is another one where an object is written again."""
    text = etag.strip('"') + f" {int(modified.timestamp())}"  # listings may be finer than answers
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
