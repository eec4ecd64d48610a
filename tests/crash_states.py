"""What a power cut may leave of a folder: what is done to it is recorded, and every such state replayed.

A state is a prefix of what was done: all of it, or all but one operation that no fsync had made durable,
which is lost, or of a write half there. So T. S. Pillai et al. find what applications take for granted (All
file systems are not created equal, OSDI 2014: ALICE), and J. Mohan et al. what file systems do wrong (Finding
crash-consistency bugs with bounded black-box crash testing, OSDI 2018: CrashMonkey). No file system's order
is taken for granted: a name is durable once its folder is synced, not by the fsync of the file.
"""

from __future__ import annotations

import builtins
import hashlib
import io
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from features.cache import assembly

Place = tuple[int, str]  # a name in a folder, which is an inode
ROOT = 0


@dataclass(frozen=True)
class Write:
    inode: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Resize:
    inode: int
    size: int


@dataclass(frozen=True)
class Make:
    """A new file or folder; ``data`` is None of a folder."""

    inode: int
    place: Place
    data: bytes | None


@dataclass(frozen=True)
class Move:
    inode: int
    source: Place
    target: Place


@dataclass(frozen=True)
class Remove:
    place: Place


@dataclass(frozen=True)
class Sync:
    inode: int


Operation = Write | Resize | Make | Move | Remove | Sync


@dataclass
class Disk:
    """Files by inode, and what their names are: a file without a name is no more to be found."""

    files: dict[int, bytearray] = field(default_factory=dict)
    names: dict[Place, int] = field(default_factory=dict)

    def copy(self) -> Disk:
        return Disk({inode: bytearray(data) for inode, data in self.files.items()}, dict(self.names))

    def do(self, operation: Operation) -> None:
        match operation:
            case Write(inode, offset, data):
                content = self.files.setdefault(inode, bytearray())  # its name may be what is lost
                content.extend(bytes(max(0, offset - len(content))))
                content[offset : offset + len(data)] = data
            case Resize(inode, size):
                content = self.files.setdefault(inode, bytearray())
                content[size:] = bytes(max(0, size - len(content)))
            case Make(inode, place, data):
                self.names[place] = inode
                if data is not None:
                    self.files[inode] = bytearray(data)
            case Move(inode, source, target):
                if self.names.get(source) == inode:
                    del self.names[source]
                self.names[target] = inode
            case Remove(place):
                self.names.pop(place, None)

    def tree(self) -> dict[str, bytes | None]:
        """All that has a name, by path; None for folders."""
        below: dict[int, list[tuple[str, int]]] = {}
        for (folder, name), inode in self.names.items():
            below.setdefault(folder, []).append((name, inode))
        found: dict[str, bytes | None] = {}
        todo = [("", ROOT)]
        while todo:
            path, folder = todo.pop()
            for name, inode in below.get(folder, []):
                found[path + name] = bytes(self.files[inode]) if inode in self.files else None
                if inode not in self.files:
                    todo.append((f"{path}{name}/", inode))
        return dict(sorted(found.items()))


@dataclass
class State:
    """What a power cut may leave, and how it came to be."""

    about: str
    length: int  # of the prefix, in operations
    tree: dict[str, bytes | None]
    whole: bool  # whether nothing is lost or torn
    last: bool  # whether the command had finished

    def lay_out(self, root: Path) -> None:
        """Replace all below ``root`` by this state."""
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        for name, data in self.tree.items():
            if data is None:
                (root / name).mkdir()
            else:
                (root / name).write_bytes(data)


class Recorder:
    """All that is done to what is below ``root`` while it is active.

    It sees what goes through Python: ``open``, the file that HDF5 is given, and ``os``. That nothing else
    writes is proved by replaying all of it (:meth:`check`).
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.root.mkdir(exist_ok=True)
        self.log: list[Operation] = []
        self._lock = threading.RLock()
        self._last = ROOT
        self.disk = Disk()
        for path in sorted(self.root.rglob("*")):
            self.disk.do(self._making(path, None if path.is_dir() else path.read_bytes()))
        self.start = self.disk.copy()

    def check(self) -> None:
        """What was recorded leads to what is there."""
        there = {
            str(path.relative_to(self.root)): None if path.is_dir() else path.read_bytes()
            for path in sorted(self.root.rglob("*"))
        }
        assert self.disk.tree() == dict(sorted(there.items())), "something was written past the recorder"

    def states(self, most: int | None = None) -> Iterator[State]:
        """Every state, each once: of those that hold the same, the first.

        ``most``: only so many, spread evenly, the first and the last ones among them.
        """
        cuts = list(self._cuts())
        if most is not None and most < len(cuts):
            cuts = [cuts[round(place * (len(cuts) - 1) / (most - 1))] for place in range(most)]
        seen: set[bytes] = set()
        for length, place, how, rest in cuts:
            disk = self.start.copy()
            for number, operation in enumerate(self.log[:length]):
                instead = rest if number == place else operation
                if instead is not None:
                    disk.do(instead)
            about = f"{length} of {len(self.log)} operations" + (f", {how} {place}" if how else "")
            state = State(about, length, disk.tree(), not how, length == len(self.log))
            if (key := _digest(state)) not in seen:
                seen.add(key)
                yield state

    def _cuts(self) -> Iterator[tuple[int, int, str, Operation | None]]:
        """How many operations there were, which of them is not whole, how, and what is left of it."""
        durable = [self._durable_at(number) for number in range(len(self.log))]
        for length in range(len(self.log) + 1):
            yield length, -1, "", None
            for number, operation in enumerate(self.log[:length]):
                if durable[number] >= length:
                    for how, rest in _left_of(operation):
                        yield length, number, how, rest

    def _durable_at(self, number: int) -> int:
        """The number of the fsync that makes an operation durable; past the end where there is none."""
        match self.log[number]:
            case Write(inode=inode) | Resize(inode=inode):
                needed = {inode}
            case Make(place=place) | Remove(place=place):
                needed = {place[0]}
            case Move(source=source, target=target):
                needed = {source[0], target[0]}
            case Sync():
                return number
        for later in range(number + 1, len(self.log)):
            if isinstance(operation := self.log[later], Sync):
                needed.discard(operation.inode)
                if not needed:
                    return later
        return len(self.log)

    def _making(self, path: Path, data: bytes | None) -> Make:
        self._last += 1
        return Make(self._last, self._place(path), data)

    def _place(self, path: Path) -> Place:
        return self._inode(path.parent), path.name

    def _inode(self, path: Path) -> int:
        inode = ROOT
        for name in path.relative_to(self.root).parts:
            inode = self.disk.names[inode, name]
        return inode

    def _done(self, operation: Operation) -> None:
        self.log.append(operation)
        self.disk.do(operation)

    def _inside(self, path: Any, dir_fd: int | None = None) -> Path | None:
        """The path below the root, if it is one."""
        if isinstance(path, int):
            return None
        base = Path.cwd() if dir_fd is None else _opened_as(dir_fd)
        whole = base / os.fsdecode(path)
        return whole if whole.is_relative_to(self.root) else None

    def _opened(self, path: Path, there: bool, truncated: bool) -> int:
        if not there:
            self._done(self._making(path, b""))
        inode = self._inode(path)
        if truncated and self.disk.files[inode]:
            self._done(Resize(inode, 0))
        return inode

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Begin to record, until ``monkeypatch`` is undone."""
        recorder, lock = self, self._lock
        real_open, real_os_open = builtins.open, os.open

        class Recorded(io.FileIO):
            def __init__(self, path: Any, mode: str) -> None:
                inside = recorder._inside(path)
                assert inside is not None
                with lock:
                    there = inside.exists()
                    super().__init__(path, mode)
                    self.inode = recorder._opened(inside, there, mode.startswith("w"))

            def write(self, data: Any) -> int:
                with lock:
                    end = "a" in self.mode
                    offset = os.fstat(self.fileno()).st_size if end else self.tell()
                    written = super().write(data)
                    content = bytes(memoryview(data).cast("B")[:written])
                    recorder._done(Write(self.inode, offset, content))
                return written

            def truncate(self, size: int | None = None) -> int:
                with lock:
                    size = super().truncate(self.tell() if size is None else size)
                    recorder._done(Resize(self.inode, size))
                return size

        class RecordedDisk(Recorded, assembly._Disk):
            pass

        def opening(file: Any, mode: str = "r", buffering: int = -1, *more: Any, **others: Any) -> Any:
            if not set(mode) & set("wax+") or recorder._inside(file) is None:
                return real_open(file, mode, buffering, *more, **others)
            raw = Recorded(file, mode.replace("b", "").replace("t", ""))
            if buffering == 0:
                return raw
            buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, *more, **others)

        def os_open(path: Any, flags: int, *more: Any, **others: Any) -> int:
            with lock:
                inside = recorder._inside(path, others.get("dir_fd"))
                there = inside is None or inside.exists()
                handle = real_os_open(path, flags, *more, **others)
                if inside is not None and flags & os.O_CREAT:
                    recorder._opened(inside, there, bool(flags & os.O_TRUNC))
            return handle

        def patch(name: str, noted: Any) -> None:
            """Note what a function of ``os`` is asked to do, once it has done so."""
            real = getattr(os, name)

            def run(*arguments: Any, **more: Any) -> Any:
                with lock:
                    operation = noted(*arguments, **more)
                    result = real(*arguments, **more)
                    if operation is not None:
                        recorder._done(operation)
                return result

            monkeypatch.setattr(os, name, run)

        def made(path: Any, *_: Any, dir_fd: int | None = None) -> Operation | None:
            inside = recorder._inside(path, dir_fd)
            if inside is None or inside.exists() or not inside.parent.exists():
                return None
            return recorder._making(inside, None)

        def removed(path: Any, *, dir_fd: int | None = None) -> Operation | None:
            inside = recorder._inside(path, dir_fd)
            return None if inside is None or not inside.exists() else Remove(recorder._place(inside))

        def moved(source: Any, target: Any) -> Operation | None:
            one, other = recorder._inside(source), recorder._inside(target)
            if one is None or other is None or not one.exists():
                return None
            return Move(recorder._inode(one), recorder._place(one), recorder._place(other))

        def synced(handle: int) -> Operation | None:
            inside = recorder._inside(_opened_as(handle))
            return None if inside is None or not inside.exists() else Sync(recorder._inode(inside))

        for module in (builtins, io):
            monkeypatch.setattr(module, "open", opening)
        monkeypatch.setattr(os, "open", os_open)
        monkeypatch.setattr(assembly, "_Disk", RecordedDisk)
        patch("mkdir", made)
        for name in ("unlink", "remove", "rmdir"):
            patch(name, removed)
        for name in ("rename", "replace"):
            patch(name, moved)
        for name in ("fsync", "fdatasync"):
            patch(name, synced)


def _opened_as(handle: int) -> Path:
    """The path of what is open."""
    return Path(f"/proc/self/fd/{handle}").readlink()


def _left_of(operation: Operation) -> list[tuple[str, Operation | None]]:
    """What may be left of an operation that is not durable: nothing, and of a write its first half."""
    match operation:
        case Sync():
            return []
        case Write(inode, offset, data) if len(data) > 1:
            return [("without", None), ("with half of", Write(inode, offset, data[: len(data) // 2]))]
    return [("without", None)]


def _digest(state: State) -> bytes:
    proof = hashlib.sha256()
    for name, data in state.tree.items():
        proof.update(f"{name}\0{-1 if data is None else len(data)}\0".encode())
        proof.update(data or b"")
    return proof.digest()
