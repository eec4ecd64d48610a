"""The options of the command line."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import UserError
from features.files import given_path, given_text
from features.words import short

if TYPE_CHECKING:
    from features.backbones.extractor import Extractor
    from features.datasets.base import Dataset

EXTRACTOR = (
    "backbone",
    "layers",
    "image_size",
    "preprocess",
    "precision",
    "mirror",
    "store",
    "weights",
    "batch",
)
LARGEST = 2**63 - 1  # of an integer: NumPy's int64
PATHS = ("dataset", "archive", "weights", "run", "image", "to", "out")

ALL = "all"  # as HEAD: all heads


@dataclass(frozen=True)
class Options:
    """The options of the command line. ``said`` names those that were given; for options of the
    extractor, None means the default of its constructor."""

    dataset: str = "cifar10"
    archive: str | None = None
    backbone: str | None = None
    layers: str | None = None
    image_size: int | None = None
    preprocess: str | None = None
    precision: str | None = None
    mirror: int | None = None
    store: str | None = None
    weights: str | None = None
    batch: int | None = None
    limit: int | None = None
    skip_unreadable: int = 0
    max_file: str | None = None
    executor: str = "local"
    address: str | None = None
    head: str = "dense"
    set: str | None = None
    grid: str | None = None
    scale: str | None = None
    memory: str | None = None
    trust: int = 0
    seed: int = 0
    seeds: int = 1
    force: int = 0
    run: str | None = None
    image: str | None = None
    format: str = "table"
    to: str | None = None
    out: str = "out"
    debug: int = 0
    said: tuple[str, ...] = ()

    def check(self) -> None:
        """Validate text, paths and the range of numbers before any work.

        Raises
        ------
        UserError
            A value is invalid; the message names the option.
        """
        from features.datasets.bucket import is_url
        from features.datasets.registry import DATASETS

        for name in dict.fromkeys(("out", *self.said)):
            value = getattr(self, name)
            if isinstance(value, int) and abs(value) > LARGEST:
                raise UserError(f"{name}={short(str(value))}: expected a number of at most {LARGEST:,}")
            if isinstance(value, str):
                given_text(name, value)
                named = name == "dataset" and (value in DATASETS or is_url(value))
                asked = (
                    name in ("dataset", "image") and not value
                )  # checked where it is read, with a better message
                if name in PATHS and not named and not asked:
                    given_path(name, value)

    def extractor(self, *leave_out: str) -> Extractor:
        """The network for these options, without those in ``leave_out``."""
        from features.backbones.extractor import Extractor

        names = [name for name in EXTRACTOR if name in self.said and name not in leave_out]
        return Extractor(**{name: getattr(self, name) for name in names})

    def images(self, skip_unreadable: bool = False, remembered: Iterable[str] = ()) -> Dataset:
        """The dataset for these options; ``skip_unreadable`` leaves out unreadable images in any case."""
        from features.datasets.registry import open_dataset

        skip = skip_unreadable or bool(self.skip_unreadable)
        return open_dataset(
            self.dataset, self.archive, self.limit, remembered=remembered, skip_unreadable=skip
        )

    def command(self, stage: str, *leave_out: str) -> str:
        """The make command for a stage with these options, without ``DEBUG`` and those in ``leave_out``."""
        names = [name for name in self.said if name not in (*leave_out, "debug")]
        return " ".join(
            ["make", stage, *(f"{name.upper()}={shlex.quote(str(getattr(self, name)))}" for name in names)]
        )

    def without(self, *names: str) -> Options:
        """These options as if those named had not been given."""
        return dataclasses.replace(self, said=tuple(name for name in self.said if name not in names))

    def replace(self, **values: Any) -> Options:
        """These options with others given too."""
        return dataclasses.replace(self, **values, said=tuple(dict.fromkeys((*self.said, *values))))

    @property
    def settings(self) -> dict[str, Any]:
        """The head's parameters in ``SET`` and ``SCALE``, by name."""
        from models.heads.parameters import parse

        scale = {} if self.scale is None else {"scale": self.scale}
        return ({} if self.set is None else parse(self.set)) | scale

    @property
    def swept(self) -> dict[str, tuple[Any, ...]]:
        """The parameter in ``GRID``, with its values."""
        from models.heads.parameters import parse_grid

        return {} if self.grid is None else parse_grid(self.grid)

    @property
    def embeddings(self) -> Path:
        return Path(self.out).expanduser() / "embeddings"

    @property
    def runs(self) -> Path:
        return Path(self.out).expanduser() / "runs"

    @property
    def logs(self) -> Path:
        return Path(self.out).expanduser() / "logs"

    @property
    def report(self) -> Path:
        return Path(self.out).expanduser() / "report"
