"""A permanent record of evaluations on test splits, one line per final prediction.

Each line has a SHA-256 over its content and the digest of the previous line, and each run stores the digest
of its line, so changed or removed lines are detected. Lines of earlier versions have no digest; they are
covered by the first line with one.
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
LONGEST = 1_000  # bytes per line; about 250 are used


@dataclass
class Looks:
    """The content of the record.

    Attributes
    ----------
    counts : number of final predictions, by test digest.
    proofs : the digests of the lines.
    last : the digest of the last line.
    damage : what is wrong with the file, in a phrase; empty if nothing is.
    """

    counts: Counter[str] = field(default_factory=Counter)
    proofs: set[str] = field(default_factory=set)
    last: str = ""
    damage: str = ""

    def doubt(self, proofs: Iterable[str], least: Mapping[str, int]) -> str:
        """Why there may have been more evaluations than recorded, in a phrase; empty if there is no sign.

        Parameters
        ----------
        proofs : digests of lines as stored by runs; empty ones are ignored.
        least : known lower bounds of the counts, by test digest.
        """
        missing = {proof for proof in proofs if proof} - self.proofs
        fewer = any(self.counts[digest] < count for digest, count in least.items())
        return self.damage or (f"{FILE} lacks lines that were there" if missing or fewer else "")


def read(root: Path) -> Looks:
    """Read the record below ``root``; damage is reported in the result, and no error is raised."""
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
    """The digest and the text of the next line, for :func:`append`.

    The caller holds the lock of the folder (``changes.py``) until the line is appended.
    """
    proof = _proof(read(root).last, test_digest, run_id)
    return proof, (json.dumps({"test": test_digest, "run": run_id, "sha256": proof}) + "\n").encode()


def append(root: Path, line: bytes) -> None:
    """Append a line to the record below ``root``; it remains when the run is removed.

    Raises
    ------
    UserError
        The file cannot be written; it is left unchanged.
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
                    sync(root)  # before the run is renamed, so that no run lacks its line
            except OSError:
                file.truncate(size)
                raise
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another folder") from None


def _add(found: Looks, line: bytes) -> bool:
    """Count a line; returns whether it is valid and follows the previous line."""
    try:
        said = json.loads(line)
        test, run, kept = said["test"], said["run"], said.get("sha256")
        proof = _proof(found.last, test, run)
        found.counts[test] += 1
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False
    follows = kept == proof if kept is not None else not found.proofs  # without digest: only at the beginning
    found.last = kept if isinstance(kept, str) else proof  # so that one damaged line is reported once
    if kept is not None:
        found.proofs.add(found.last)
    return bool(follows and line.endswith(b"\n"))


def _proof(before: str, test_digest: str, run_id: str) -> str:
    """Hex SHA-256 over the digest of the previous line and the content of this one."""
    return canonical_digest([before, test_digest, run_id])
