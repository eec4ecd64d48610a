"""A Report on disk: index.html, report.md and report.json from the same object."""

from __future__ import annotations

import html
import io
import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import UserError
from reports.metrics import DRAWS
from reports.report import Entry, Group, Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write(report: Report, folder: Path) -> Path:
    """Write the three renderings and the figures into ``folder``; returns the page's path.

    Each file appears whole or not at all.

    Raises
    ------
    UserError
        The folder cannot be written.
    """
    names = {group.test_digest: row_names(group) for group in report.groups}
    figures = draw(report, names)
    common = {"report": report, "names": names, "figures": figures, "draws": DRAWS, "chosen": chosen_name}
    files = {f"figures/{name}.svg": svg for name, svg in figures.items()}
    files["report.json"] = json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n"
    files["report.md"] = _template("report.md.j2", common, autoescape=False)
    files["index.html"] = _template("index.html.j2", common, autoescape=True)
    try:
        shutil.rmtree(folder / "figures", ignore_errors=True)  # of runs that are no more
        for name, text in files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(target.name + ".tmp")
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, target)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; choose another OUT=") from None
    return folder / "index.html"


def row_names(group: Group) -> list[str]:
    """A short name for each entry: the head, and of the rest what tells equal heads apart."""
    names = []
    for entry in group.entries:
        same = [_traits(other) for other in group.entries if other.head == entry.head]
        telling = [
            trait for place, trait in enumerate(_traits(entry)) if len({other[place] for other in same}) > 1
        ]
        names.append(f"{entry.head} ({', '.join(telling)})" if telling else entry.head)
    doubled = {name for name, count in Counter(names).items() if count > 1}
    return [
        f"{name} {entry.id[:6]}" if name in doubled else name
        for name, entry in zip(names, group.entries, strict=True)
    ]


def _traits(entry: Entry) -> tuple[str, ...]:
    """What can tell two runs of one head apart, in words."""
    return (
        " + ".join(entry.layers),
        f"{entry.image_size} px",
        entry.preprocess,
        entry.precision,
        entry.weights,
        f"{entry.train_images:,} images",
        f"seed {entry.seed}",
    )


def draw(report: Report, names: dict[str, list[str]]) -> dict[str, str]:
    """Every figure as SVG text, by name: ``comparison-<group>``, ``confusion-<run>``, ..."""
    from reports import plots

    figures: dict[str, str] = {}
    for number, group in enumerate(report.groups):
        figures[f"comparison-{number}"] = _svg(plots.comparison(group, names[group.test_digest]))
        for entry in group.entries:
            confusion = plots.confusion_matrix(entry, group.class_names)
            figures[f"confusion-{entry.id}"] = _svg(confusion)
            if entry.history:
                figures[f"curves-{entry.id}"] = _svg(plots.curves(entry))
            elif len(entry.sweep) > 1:
                figures[f"sweep-{entry.id}"] = _svg(plots.sweep(entry))
    return figures


def markdown(text: object) -> str:
    """Text from data, so that Markdown and the HTML around it show it as it is."""
    flat = " ".join(str(text).split())
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(flat, quote=False))


def fenced(text: str) -> str:
    """A Markdown code block that nothing in ``text`` can close."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}{fence}"


def chosen_name(parameter: str) -> str:
    """A chosen parameter as people say it."""
    return "epochs" if parameter == "stop_epoch" else parameter.rpartition("__")[2]


def _svg(figure: Figure) -> str:
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "headroom"}):  # the same ids in every build
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _template(name: str, values: dict[str, Any], autoescape: bool) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["markdown"] = markdown
    environment.filters["fenced"] = fenced
    return environment.get_template(name).render(values)
