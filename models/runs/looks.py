"""How often a test split has been looked at: a line for every final prediction, kept for good.

Each line has the SHA-256 of itself and of the line before it, and a run keeps that of its own line. So a
line that is changed or removed is noticed, wherever it stands. Earlier versions wrote lines without a
digest; the first that has one vouches for those before it.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from errno import ENOSPC
from pathlib import Path

from features.cache.embeddings import canonical_digest
from features.errors import UserError
from features.files import open_regular, sync

FILE = "looks.jsonl"
LONGEST = 1_000  # bytes of a line; one has 250


@dataclass
class Looks:
    """What is noted.

    Attributes
    ----------
    counts : final predictions, by test digest.
    proofs : the digests of the lines.
    last : the digest that the next line follows.
    damage : what is wrong with the file, in a phrase; empty where nothing is.
    """

    counts: Counter[str] = field(default_factory=Counter)
    proofs: set[str] = field(default_factory=set)
    last: str = ""
    damage: str = ""

    def doubt(self, proofs: Iterable[str], least: Mapping[str, int]) -> str:
        """Why there may have been more looks, in a phrase; empty where nothing speaks for it.

        Parameters
        ----------
        proofs : digests that lines here should have, as runs keep them; empty ones are of no line.
        least : what the count of a test digest was before.
        """
        missing = {proof for proof in proofs if proof} - self.proofs
        fewer = any(self.counts[digest] < count for digest, count in least.items())
        return self.damage or (f"{FILE} lacks lines that were there" if missing or fewer else "")


def read(root: Path) -> Looks:
    """What is noted below ``root``; what is damaged is reported, and never stops the reader."""
    found = Looks()
    try:
        with open_regular(root / FILE) as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST), b""), start=1):
                if not _add(found, line):
                    found.damage = found.damage or f"{FILE} is damaged or was changed at line {number}"
    except FileNotFoundError:
        pass
    except OSError as error:
        found.damage = f"{FILE} cannot be read ({error.strerror or error})"
    return found


def following(root: Path, test_digest: str, run_id: str) -> tuple[str, bytes]:
    """The digest of the next line, and the line; for :func:`append`.

    The caller is the only process that changes the folder (``changes.py``) until it is appended.
    """
    proof = _proof(read(root).last, test_digest, run_id)
    return proof, (json.dumps({"test": test_digest, "run": run_id, "sha256": proof}) + "\n").encode()


def append(root: Path, line: bytes) -> None:
    """Note below ``root`` that a run has predicted a test split. Removing the run removes nothing.

    Raises
    ------
    UserError
        It cannot be written; the file is as it was.
    """
    path = root / FILE
    try:
        with open(path, "a+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                line = line if file.read(1) == b"\n" else b"\n" + line  # after a power cut
            try:
                if file.write(line) < len(line):
                    raise OSError(ENOSPC, os.strerror(ENOSPC))
                os.fsync(file.fileno())
                if not size:
                    sync(root)  # before the run has its name: no run stands without its line
            except OSError:
                file.truncate(size)
                raise
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another folder") from None


def _add(found: Looks, line: bytes) -> bool:
    """Count a line; whether it is one, and follows from the line before it."""
    try:
        said = json.loads(line)
        test, run, kept = said["test"], said["run"], said.get("sha256")
        proof = _proof(found.last, test, run)
        found.counts[test] += 1
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False
    follows = kept == proof if kept is not None else not found.proofs  # of earlier versions: the first ones
    found.last = kept if isinstance(kept, str) else proof  # one damaged line is reported once
    if kept is not None:
        found.proofs.add(found.last)
    return bool(follows and line.endswith(b"\n"))


def _proof(before: str, test_digest: str, run_id: str) -> str:
    """SHA-256 over the digest of the line before, and what this one says."""
    return canonical_digest([before, test_digest, run_id])
