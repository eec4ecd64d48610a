"""Objects in an S3 bucket as the files of a dataset; the only use of s3fs and fsspec."""

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
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html; older names vary.
PLACE = re.compile(r"s3://[A-Za-z0-9][\w.-]{1,253}[A-Za-z0-9](/.*)?", re.ASCII)
THREADS = 32  # objects read at a time: latency dominates for small ones
LARGEST = 256 << 20  # bytes of an object, which is read into memory
CONNECT = 4.0  # seconds to connect
SILENT = 15.0  # seconds between two bytes of a response
ATTEMPTS = 4  # per request; with the pauses in between, 30 s if the server does not respond
BODIES = 3  # attempts to read an object when connections break
INSTALL = ".venv/bin/python -m pip install -r requirements-s3.txt"
KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
GONE = ("NoSuchKey", "404")


def is_url(text: str) -> bool:
    """Whether text looks like a URL."""
    return "://" in text


def bucket_url(text: str) -> str:
    """A URL ``s3://bucket/prefix`` without the final ``/``.

    Raises
    ------
    UserError
        The URL is not of this form. The message does not repeat it, as it may contain keys.
    """
    if not PLACE.fullmatch(text) or not text.isprintable():
        raise UserError(
            "dataset= is a URL, but not of a bucket: expected s3://bucket/prefix or s3://bucket/list.csv, "
            f"without user, key or port; keys belong in the environment ({KEYS}), another server in "
            "AWS_ENDPOINT_URL"
        )
    return text.rstrip("/")


@dataclass
class Bucket:
    """Objects below a prefix, listed once; a :class:`~features.datasets.storage.Storage`.

    An object's stamp is its size and 63 bits of a digest of its ETag and modification time. The headers of
    each response contain these too, so every read is checked against the listing without another request.

    Parameters
    ----------
    root : ``s3://bucket/prefix``.

    Raises
    ------
    UserError
        From every method: s3fs is not installed, the bucket does not exist, access is denied, or the server
        does not respond.
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
            raise UserError("a URL, but not of an object: expected s3://bucket/key, without user or port")
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
        """The bytes of an object.

        Parameters
        ----------
        stamp : the stamp that the object must still have; None: any.

        Raises
        ------
        UserError
            The object has changed, or the server fails.
        OSError
            The object does not exist, or is larger than ``LARGEST`` bytes.
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
            raise UserError(f"{where}: the server sent only a part of it; run this again")
        return content

    def _place(self, path: str) -> tuple[str, str]:
        """The bucket and key of a path."""
        bucket, _, key = self.where(path).removeprefix(SCHEME).partition("/")
        return bucket, key

    def _list(self, folder: str) -> tuple[list[str], NDArray[np.int64]]:
        """The names of the objects in a folder, ascending, and their stamps, ``(n, 2)``."""
        prefix = self._place(folder)[1]
        start = len(prefix and f"{prefix}/")
        names, stamps = list[str](), list[Stamp]()
        for page in self._pages(folder):
            for one in page.get("Contents", []):
                if name := one["Key"][start:]:  # the folder itself may be an empty object
                    names.append(name)
                    stamps.append((one["Size"], _change(one["ETag"], one["LastModified"])))
        order = sorted(range(len(names)), key=names.__getitem__)
        return [names[row] for row in order], np.array(stamps, np.int64).reshape(-1, 2)[order]

    def _pages(self, folder: str) -> Iterator[dict[str, Any]]:
        """The listing of a folder, in pages of 1,000 objects and folders."""
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
    """An object that can be opened; a :class:`~features.datasets.images.Distant`.

    Attributes
    ----------
    bucket : the storage that ``path`` is relative to.
    path : relative to the root of the bucket.
    stamp : the stamp that the object must still have; None: any.
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
        """The bytes of the object. Raises as :meth:`Bucket.read`."""
        return io.BytesIO(self.bucket.read(self.path, self.stamp))


_connecting = threading.Lock()
_connected: dict[str, Any] = {}  # file systems, by a digest of the AWS environment variables


def _files() -> Any:
    """The s3fs file system of this process, configured by its environment variables alone.

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
            _connected[here].retries = 1  # botocore retries
        return _connected[here]


def _ask(where: str, method: str, **about: str) -> dict[str, Any]:
    """The server's response to a request.

    Raises
    ------
    FileNotFoundError
        The object does not exist.
    UserError
        The bucket does not exist, access is denied, or the server does not respond.
    """
    files = _files()
    try:
        answer: dict[str, Any] = files.call_s3(method, **about)
    except _failures() as error:
        raise _refusal(where, error) from None
    return answer


def _body(body: Any, wanted: bool) -> bytes:
    """The body of a response, or nothing if it is not ``wanted``; closes the response."""
    from fsspec.asyn import sync

    async def read() -> bytes:
        try:
            return bytes(await body.read()) if wanted else b""
        finally:
            body.close()

    content: bytes = sync(_files().loop, read)
    return content


def _failures() -> tuple[type[Exception], ...]:
    """The exceptions that s3fs raises for failed requests."""
    from aiohttp import ClientError
    from botocore.exceptions import BotoCoreError

    return OSError, BotoCoreError, ClientError  # timeouts are OSErrors


def _refusal(where: str, error: Exception) -> Exception:
    """The one-line error for a failed request. Of the server's response it quotes the error code alone."""
    from botocore.exceptions import ClientError, NoCredentialsError, PartialCredentialsError

    cause = error if isinstance(error, ClientError) else error.__cause__
    code = str(cause.response["Error"].get("Code")) if isinstance(cause, ClientError) else ""
    if code in GONE:
        return _no_object(where)
    if code == "NoSuchBucket":
        bucket = where.removeprefix(SCHEME).partition("/")[0]
        return UserError(f"{where}: there is no bucket {bucket}; correct the name, or AWS_ENDPOINT_URL")
    if code:
        shown = code if re.fullmatch(r"\w{1,60}", code) else "an unknown error"
        return UserError(
            f"{where}: the server denies access ({shown}); check that the keys in the environment "
            f"({KEYS}) are valid and allow listing and reading"
        )
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return UserError(f"{where}: no keys for the bucket; set {KEYS} in the environment")
    return UserError(
        f"{where}: the server does not respond ({type(error).__name__}); check that it can be reached "
        "from here, and AWS_ENDPOINT_URL if it is not Amazon's; then run this again"
    )


def _no_object(where: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "No such object", where)


def _change(etag: str, modified: datetime) -> int:
    """A 63-bit number that changes when an object is rewritten."""
    text = etag.strip('"') + f" {int(modified.timestamp())}"  # listings may be finer than responses
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
