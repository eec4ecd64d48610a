"""Rendering a report: page, Markdown, JSON, CSV, LaTeX and figures."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from features.errors import UserError
from features.files import file_digest, write_whole
from features.shapes import fits, mapping, read, sha256, text
from features.words import counted, listed
from reports.entry import Entry
from reports.page.excerpt import LISTED, classification_report, worst
from reports.page.latex import comment, latex, rows
from reports.page.spreadsheet import CSV, ENCODING, cell
from reports.report import Group, Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reports.context.thumbnails import Pictures

MANIFEST = "manifest.json"
DETAILED = 15  # best configurations of a group that have their own figures
PNG_DPI = 200
PATIENCE = 60.0  # seconds to wait for the lock; writing a report takes a second
TEMPLATES = Path(__file__).parent / "templates"
RUNS: dict[str, Callable[[Group, Entry], Any]] = {  # columns of runs.csv
    "dataset": lambda group, entry: group.dataset,
    "name": lambda group, entry: entry.name,
    "head": lambda group, entry: entry.head,
    "seed": lambda group, entry: entry.seed,
    "backbone": lambda group, entry: entry.backbone,
    "layers": lambda group, entry: ",".join(entry.layers),
    "image_size_px": lambda group, entry: entry.image_size,
    "preprocess": lambda group, entry: entry.preprocess,
    "precision": lambda group, entry: entry.precision,
    "mirror": lambda group, entry: int(entry.mirror),
    "weights": lambda group, entry: entry.weights,
    "train_images": lambda group, entry: entry.train_images,
    "test_images": lambda group, entry: group.test_images,
    "test_accuracy": lambda group, entry: entry.accuracy["value"],
    "test_accuracy_low": lambda group, entry: entry.accuracy["low"],
    "test_accuracy_high": lambda group, entry: entry.accuracy["high"],
    "balanced_accuracy": lambda group, entry: entry.balanced_accuracy["value"],
    "balanced_accuracy_low": lambda group, entry: entry.balanced_accuracy["low"],
    "balanced_accuracy_high": lambda group, entry: entry.balanced_accuracy["high"],
    "macro_f1": lambda group, entry: entry.macro_f1["value"],
    "macro_f1_low": lambda group, entry: entry.macro_f1["low"],
    "macro_f1_high": lambda group, entry: entry.macro_f1["high"],
    "validation_accuracy": lambda group, entry: entry.validation_accuracy,
    "train_accuracy": lambda group, entry: entry.train_accuracy,
    "ece_scaled": lambda group, entry: entry.scaled["ece"]["value"],
    "brier_scaled": lambda group, entry: entry.scaled["brier"],
    "log_loss_scaled_nats": lambda group, entry: entry.scaled["log_loss"],
    "temperature": lambda group, entry: entry.temperature,
    "chosen": lambda group, entry: json.dumps(entry.chosen),
    "fit_seconds": lambda group, entry: entry.fit_seconds,
    "predict_seconds_per_1000": lambda group, entry: entry.costs["predict_seconds_per_1000"],
    "fingerprint": lambda group, entry: entry.fingerprint,
    "run": lambda group, entry: entry.folder,
    "command": lambda group, entry: entry.command,
}
CLASSES = (  # columns of classes.csv
    "run", "name", "class", "support",
    *(f"{metric}{end}" for metric in ("precision", "recall", "f1") for end in ("", "_low", "_high")),
)  # fmt: skip
CONFUSION = ("run", "name", "true", "predicted", "images")  # columns of confusion.csv


def write(
    report: Report,
    folder: str | Path,
    pictures: Mapping[str, Pictures] | None = None,
    state: str = "",
    form: str = CSV,
) -> Path:
    """Write all renderings and figures of a report to a folder.

    Each file is written atomically, and the manifest last. A lock ensures that all files are of one report.

    Parameters
    ----------
    report : the report.
    folder : made if it does not exist.
    pictures : thumbnails by test digest; None: none.
    state : digest of everything that determines the report, for :func:`current`.
    form : of the CSV files: ``csv``, or ``spreadsheet`` with formulas disabled.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    UserError
        The folder cannot be written.

    Examples
    --------
    >>> from models import load_all
    >>> from reports import build, write
    >>> write(build(load_all("out/runs")), "out/report").as_posix()
    'out/report/index.html'
    """
    folder = Path(folder)
    figures = draw(report)
    svgs = {name: _svg(figure, name) for name, figure in figures.items()}
    common = {
        "report": report,
        "figures": svgs,
        "detailed": DETAILED,
        "chosen": chosen_name,
        "most": LISTED,
    }
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    narrow = {name: _svg(figure, f"{name}-narrow") for name, figure in draw_narrow(report).items()}
    page = common | {
        "figures": {name: on_page(svg) for name, svg in svgs.items()},
        "narrow": {name: on_page(svg) for name, svg in narrow.items()},
        "pictures": _Thumbnails(pictures or {}),
        "script": script,
        "script_digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    files: dict[str, bytes] = {f"figures/{name}.svg": svg.encode() for name, svg in svgs.items()}
    files |= {f"figures/{name}.png": _png(figure) for name, figure in figures.items()}
    files["report.json"] = (json.dumps(report.to_json(), ensure_ascii=False) + "\n").encode()
    files["report.md"] = _template("report.md.j2", common, autoescape=False).encode()
    files["table.tex"] = _template("table.tex.j2", {"report": report}, autoescape=False).encode()
    files["runs.csv"] = _csv(RUNS, _runs(report), form)
    files["classes.csv"] = _csv(CLASSES, _classes(report), form)
    files["confusion.csv"] = _csv(CONFUSION, _confusion(report), form)
    files["index.html"] = _template("index.html.j2", page, autoescape=True).encode()
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files[MANIFEST] = (json.dumps({"state": state, "sha256": digests}, indent=1) + "\n").encode()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=PATIENCE):  # not beside the page
            (folder / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(folder / "figures", ignore_errors=True)  # may have figures of deleted runs
            for name, content in files.items():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                write_whole(target, content)
    except Timeout:
        raise UserError(
            f"{folder} is being written by another process; wait for it, then run this again"
        ) from None
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; choose another folder") from None
    return folder / "index.html"


def current(folder: Path, state: str) -> Path | None:
    """The page in ``folder`` if it has this state and all files are intact; otherwise None."""
    try:
        manifest = read(folder / MANIFEST)
    except (OSError, ValueError):
        return None
    if not fits(manifest, {"state": text, "sha256": mapping(sha256)}) or manifest["state"] != state:
        return None
    digests = manifest["sha256"]
    if "index.html" not in digests or any(_leads_away(name) for name in digests):
        return None
    try:
        found = {name: file_digest(folder / name) for name in digests}
    except OSError:
        return None
    return folder / "index.html" if found == digests else None


def _leads_away(name: str) -> bool:
    """Whether a file name would leave the folder of the report."""
    return PurePath(name).is_absolute() or ".." in PurePath(name).parts or "\0" in name


def draw(report: Report) -> dict[str, Figure]:
    """All figures by file name: ``comparison-<group>``, ``confusion-<run>``, ..."""
    from reports.figures import run_plots
    from reports.figures.plot_style import WIDE

    figures: dict[str, Figure] = {}
    for number, group in enumerate(report.groups):
        figures |= _of_group(group, number, WIDE)
        for entry in group.configurations[:DETAILED]:
            figures[f"confusion-{entry.id}"] = run_plots.confusion_matrix(entry, group.class_names)
            figures[f"reliability-{entry.id}"] = run_plots.reliability(entry)
            if entry.history:
                figures[f"accuracy-{entry.id}"] = run_plots.accuracy_by_epoch(entry)
                figures[f"loss-{entry.id}"] = run_plots.loss_by_epoch(entry)
            elif len(entry.sweep) > 1:
                figures[f"sweep-{entry.id}"] = run_plots.sweep(entry)
    return figures


def draw_narrow(report: Report) -> dict[str, Figure]:
    """The figures of groups at the width of a phone; those of runs fit unchanged."""
    from reports.figures.plot_style import NARROW

    figures: dict[str, Figure] = {}
    for number, group in enumerate(report.groups):
        figures |= _of_group(group, number, NARROW)
    return figures


def _of_group(group: Group, number: int, width: float) -> dict[str, Figure]:
    from reports.figures import plots

    figures = {"comparison": plots.comparison(group, width)}
    if group.pairs:
        figures["pairs"] = plots.pairs(group, width)
    if any(entry.head != "prior" for entry in group.entries):
        figures["coverage"] = plots.coverage(group, width)
        figures["pareto"] = plots.pareto(group, width)
    if any(entry.curve for entry in group.entries):
        figures["learning"] = plots.learning(group, width)
    if group.ladder:
        figures["ladder"] = plots.ladder(group, width)
    if group.map:
        figures["map"] = plots.embedding_map(group, width)
    return {f"{name}-{number}": figure for name, figure in figures.items()}


def markdown(text: object) -> str:
    """Escape text for Markdown and HTML."""
    flat = " ".join(str(text).split())
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(flat, quote=False))


def fenced(text: str) -> str:
    """A Markdown code block that nothing in ``text`` can close."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}{fence}"


def code(text: str) -> str:
    """A Markdown code span that nothing in ``text`` can close."""
    flat = " ".join(text.split())
    ticks = "`" * (1 + max(map(len, re.findall("`+", flat)), default=0))
    return f"{ticks} {flat} {ticks}" if "`" in flat else f"`{flat}`"


def chosen_name(parameter: str) -> str:
    """The name of a chosen parameter for readers."""
    return "epochs" if parameter == "stop_epoch" else parameter


class _Thumbnails:
    """Thumbnails by test digest, for the template."""

    def __init__(self, pictures: Mapping[str, Pictures]) -> None:
        self._pictures = pictures

    def problem(self, group: Group) -> str | None:
        """Why there are no thumbnails, in one line, or None."""
        found = self._pictures.get(group.test_digest)
        return "the images were not looked for" if found is None else found.problem

    def uri(self, group: Group, split: str, row: int) -> str | None:
        """The thumbnail as a data URI, or None."""
        found = self._pictures.get(group.test_digest)
        return None if found is None or found.problem else found.uri(split, row)


def _csv(columns: Iterable[str], rows: Iterable[Sequence[Any]], form: str) -> bytes:
    text = io.StringIO()
    sheet = csv.writer(text)
    sheet.writerow(columns)
    sheet.writerows([cell(value, form) for value in row] for row in rows)
    return text.getvalue().encode(ENCODING[form])


def _runs(report: Report) -> Iterator[list[Any]]:
    for group in report.groups:
        for entry in group.entries:
            yield [value(group, entry) for value in RUNS.values()]


def _classes(report: Report) -> Iterator[list[Any]]:
    """Rows of ``classes.csv``."""
    for group in report.groups:
        for entry in group.entries:
            for row in entry.per_class:
                yield [entry.folder, entry.name, *(row[name] for name in CLASSES[2:])]


def _confusion(report: Report) -> Iterator[list[Any]]:
    """Rows of ``confusion.csv``: the non-empty cells of each run's confusion matrix."""
    for group in report.groups:
        names = group.class_names
        for entry in group.entries:
            for true, row in enumerate(entry.confusion):
                for predicted, images in enumerate(row):
                    if images:
                        yield [entry.folder, entry.name, names[true], names[predicted], images]


def _svg(figure: Figure, name: str) -> str:
    """The figure as SVG, with ids that are unique on the page and reproducible."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "headroom"}), _any_glyph():
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", text[text.index("<svg") :])


def on_page(svg: str) -> str:
    """Adapt an SVG to the page: no background, CSS colours, enlarged by at most a quarter."""
    from reports.figures.plot_style import TRAINING

    svg = re.sub(r'(<path d="[^"]*" style="fill: )#ffffff"', r'\1none"', svg)
    width = float(re.search(r'width="([\d.]+)pt"', svg)[1])  # type: ignore[index]  # matplotlib's own
    svg = svg.replace("<svg ", f'<svg style="max-width: {1.25 * width:.0f}pt" ', 1)
    svg = re.sub(r"(fill|stroke): #000000", r"\1: currentColor", svg)
    return re.sub(f"(fill|stroke): {TRAINING.lower()}", r"\1: var(--blue)", svg)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with _any_glyph():
        figure.savefig(buffer, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return buffer.getvalue()


@contextmanager
def _any_glyph() -> Iterator[None]:
    """Suppress warnings for missing glyphs; the page has the names as text."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
        yield


def _fixed(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}"


def _per_cent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}%"


def _template(name: str, values: dict[str, Any], autoescape: bool) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "markdown": markdown,
        "fenced": fenced,
        "code": code,
        "latex": latex,
        "comment": comment,
        "rows": rows,
        "classification_report": classification_report,
        "worst": worst,
        "counted": counted,
        "listed": listed,
        "thousands": lambda value: f"{value:,}",
        "fixed": _fixed,
        "per_cent": _per_cent,
        "points": lambda value: f"{0.0 if abs(value) < 5e-4 else 100 * value:+.1f}",
        "p_value": lambda value: "<\u00a00.0001" if value < 1e-4 else f"{value:.4f}",
    }
    return environment.get_template(name).render(values)
