"""Predictions for image files, batch by batch."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from features.errors import UserError
from features.progress import say
from features.words import counted
from reports.page.spreadsheet import CSV, ENCODING, SPREADSHEET, cell

if TYPE_CHECKING:
    from features.backbones.extractor import Extractor
    from models.runs.predictor import Predictor
    from models.runs.run import Run
    from pipeline.options import Options

FORMATS = ("table", "json", CSV, SPREADSHEET)
COLUMNS = ("image", "class", "probability", "runner_up", "runner_up_probability")


def predict_images(options: Options, run: Run) -> int:
    """Print the prediction for each image; returns 1 if any could not be read, else 0.

    Raises
    ------
    UserError
        There is no such image, or the weights are not those the run was trained with.
    """
    from models.runs.predictor import Predictor

    paths = _paths(options.image or "")
    predictor = Predictor(run, options.runs, trust=bool(options.trust), memory=options.memory)
    say_passes(predictor)
    extractor = network_of(options, run, predictor.layers)
    skipped = _show(_predictions(paths, extractor, predictor, run.class_names), options.format)
    if skipped > 1:
        say(f"{counted(skipped, 'image')} skipped")
    return 1 if skipped else 0


def say_passes(predictor: Predictor) -> None:
    """Tell how often a head reads training images from their cache: it may take long."""
    if predictor.rows_per_pass is not None:
        say(
            "note: knn keeps its training images in their cache, and reads them once for every "
            f"{counted(predictor.rows_per_pass, 'image')}; a larger MEMORY= takes more at once"
        )


def check_format(options: Options, known: tuple[str, ...] = FORMATS) -> None:
    """Refuse a ``FORMAT`` that is not among the ``known`` ones."""
    if options.format not in known:
        raise UserError(f"FORMAT={options.format}: expected one of {', '.join(known)}")


def _paths(image: str) -> Iterator[Path]:
    """The image files in ``IMAGE``, in order; folders are traversed lazily."""
    from features.datasets.images import SUFFIXES

    if image == "-":
        listed = (Path(line.rstrip("\n")) for line in sys.stdin if line.strip())
        first = next(listed, None)
        if first is None:
            raise UserError("IMAGE=-: nothing on standard input; send it a list of images, one a line")
        return chain([first], listed)
    path = Path(image).expanduser()
    if path.is_dir():
        found = _walk(path, SUFFIXES)
        first = next(found, None)
        if first is None:
            raise UserError(f"IMAGE={image}: no JPEG or PNG in this folder; name one that holds some")
        return chain([first], found)
    if not path.exists():
        raise UserError(f"IMAGE={image}: no such file or folder; name an image, a folder or -")
    return iter([path])


def _walk(top: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Yield images below ``top``, following links; then folders that cannot be listed, as unreadable."""
    unread: list[Path] = []
    seen = {top.resolve()}  # links may form a loop
    for folder, folders, names in os.walk(
        top, onerror=lambda error: unread.append(Path(error.filename)), followlinks=True
    ):
        found = {(Path(folder) / name).resolve(): name for name in sorted(folders)}
        folders[:] = [name for real, name in found.items() if real not in seen]
        seen |= found.keys()
        yield from (Path(folder) / name for name in sorted(names) if name.lower().endswith(suffixes))
    yield from unread


def network_of(options: Options, run: Run, layers: tuple[str, ...]) -> Extractor:
    """The network that made the run's embeddings. Raises UserError if the weights differ."""
    from features.backbones.extractor import Extractor

    spec = run.spec
    extractor = Extractor.of_spec(spec, layers, options.weights, options.batch)
    extractor.check_memory()
    extractor.weights  # noqa: B018  so that the spec has the digest of what was found
    ours = extractor.spec()
    for name, value in spec.items():
        if name not in ("layers", "weights") and ours.get(name) != value:
            shown = "weights" if name == "weights_sha256" else name
            raise UserError(
                f"{shown.upper()}: the run {run.folder} was trained with {spec[shown]}, got "
                f"{ours.get(shown)}; give what it was trained with"
            )
    return extractor


def _predictions(
    paths: Iterator[Path], extractor: Extractor, predictor: Predictor, names: tuple[str, ...]
) -> Iterator[tuple[Any, ...] | str]:
    """Yield a row of :data:`COLUMNS` for each image, or the reason why it cannot be read."""
    from features.ahead import read_ahead
    from features.datasets.images import read_square

    def read(path: Path) -> Any:
        try:
            return read_square(path, extractor.image_size)
        except UserError as error:
            return str(error)

    batches = iter(lambda: list(islice(paths, extractor.batch)), [])
    unread: list[str] = []

    def embedded(reader: Executor, pool: Executor) -> Iterator[tuple[list[Path], dict[str, Any]]]:
        for pictures in read_ahead(
            reader, lambda batch: list(zip(batch, pool.map(read, batch), strict=True)), batches
        ):
            unread.extend(reason for _, reason in pictures if isinstance(reason, str))
            good = [(path, picture) for path, picture in pictures if not isinstance(picture, str)]
            if good:
                yield [path for path, _ in good], extractor.embed(np.stack([picture for _, picture in good]))

    with ThreadPoolExecutor() as pool, ThreadPoolExecutor(1) as reader:
        for good, proba in predictor.predict_each(embedded(reader, pool)):
            while unread:
                yield unread.pop(0)
            for path, row in zip(good, proba, strict=True):
                first, second = np.argsort(-row, kind="stable")[:2]
                yield str(path), names[first], float(row[first]), names[second], float(row[second])
    yield from unread


def _show(rows: Iterator[tuple[Any, ...] | str], form: str) -> int:
    """Print rows (JSON: one object per line) and report skipped images; returns their number."""
    skipped = 0
    for stream in (sys.stdin, sys.stdout):  # file names may not be UTF-8
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="surrogateescape")
    if form == SPREADSHEET and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding=ENCODING[form])
    sheet = csv.writer(sys.stdout)
    if form in (CSV, SPREADSHEET):
        sheet.writerow(COLUMNS)
    elif form == "table":
        print(f"{'class':<20} {'probability':>11}  {'runner-up':<20} {'probability':>11}  image")
    for row in rows:
        if isinstance(row, str):
            skipped += 1
            say(f"skipped: {row}")
        elif form in (CSV, SPREADSHEET):
            sheet.writerow(cell(value, form) for value in row)
        elif form == "json":
            print(json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False))
        else:
            path, first, sure, second, less = (
                visible(value) if isinstance(value, str) else value for value in row
            )
            print(f"{first:<20} {sure:>11.3f}  {second:<20} {less:>11.3f}  {path}")
    return skipped


def visible(text: str) -> str:
    """Replace characters that would control the terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
