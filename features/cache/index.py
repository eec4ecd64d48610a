"""The index of a cache in several files: their names, order and digests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from features.cache.part import FORMAT, HEADER, PART_HEADER, Damaged, Part, canonical, canonical_digest
from features.datasets.base import SPLITS
from features.errors import UserError
from features.files import NotRegular, write_whole
from features.shapes import Shape, anything, count, fits, mapping, read, sha256, some, text

NAME = "index.json"
NAMES = (*HEADER, "digests", "parts")  # fields of an index, without its digest
SHAPE: Shape = {
    **dict.fromkeys(("spec", "dataset", "provenance"), mapping(anything)),
    "headroom_format": count(0),
    "fingerprint": sha256,
    "class_names": some(text),
    "digests": mapping(sha256),
    "parts": some({"file": text, "sha256": sha256}),
    "sha256": sha256,
}


def write(folder: Path, header: dict[str, Any], digests: dict[str, str], parts: Sequence[Part]) -> None:
    """Write the index of a folder of finished parts.

    Parameters
    ----------
    header : the header that a single file would have.
    digests : SHA-256 of the labels and ids of each complete split.
    parts : the parts in row order.
    """
    files = [{"file": part.path.name, "sha256": part.digest} for part in parts]
    said = {**header, "digests": digests, "parts": files}
    write_whole(folder / NAME, canonical({**said, "sha256": _digest(said)}).encode())


def open_parts(folder: Path) -> tuple[dict[str, Any], list[Part]]:
    """The index of a folder, and its parts in row order with verified headers.

    Raises
    ------
    Damaged
        The index or a part is missing or damaged.
    UserError
        A newer version of Headroom wrote it, or the operating system refuses to read it.
    """
    path = folder / NAME
    try:
        said = read(path)
    except FileNotFoundError:
        raise Damaged(f"{folder} has lost its {NAME}; compute it again") from None
    except NotRegular:
        raise UserError(f"{path} is not a regular file; move it away") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); fix that, then run this again") from None
    except ValueError as error:
        raise Damaged(f"{path} is damaged ({error}); compute it again") from None
    version = said.get(HEADER[0]) if isinstance(said, dict) else None
    if type(version) is int and version != FORMAT:
        raise UserError(
            f"{folder} has format {version}, this Headroom reads {FORMAT}: use the Headroom that "
            "wrote it, or move the folder away and compute it again"
        )
    if not fits(said, SHAPE) or said["sha256"] != _digest(said):
        raise Damaged(f"{path} is damaged; compute it again")
    parts = [_part(folder, said, place) for place in range(len(said["parts"]))]
    for split in SPLITS:
        end = 0
        for part in (part for part in parts if part.rows[split]):
            if part.starts[split] != end:
                raise Damaged(f"{part.path} does not begin with row {end:,} of {split}; compute it again")
            end += part.rows[split]
    return said, parts


def _part(folder: Path, said: dict[str, Any], place: int) -> Part:
    named = said["parts"][place]
    path = folder / Path(named["file"]).name
    if not path.exists():
        raise Damaged(f"{folder} has lost {path.name}; compute it again")
    part = Part(path, PART_HEADER)
    if part.digest != named["sha256"]:
        raise Damaged(f"{path} is not the part that the index names; compute it again")
    return part


def _digest(said: dict[str, Any]) -> str:
    return canonical_digest({name: said[name] for name in NAMES})
