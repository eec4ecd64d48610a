"""Every sentence that the product says, one a line with its place, to be read as one text: ``make messages``.

Errors (raised), notes (``say``, ``warn``, ``print``), and text: every other string of several words, such as
help texts and what is put together elsewhere. An expression in a sentence stands in braces.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("features", "models", "reports", "pipeline")
NOTES = ("say", "warn", "print", "write")
SENTENCE = re.compile(r"\w[\w)\]}'\"=:,;]* +[\w({\[]")


def messages(source: str) -> Iterator[tuple[int, str, str]]:
    """Line, kind (``error``, ``note``, ``text``) and text of every string of words but docstrings."""
    yield from _within(ast.parse(source), "text")


def _within(node: ast.AST, kind: str) -> Iterator[tuple[int, str, str]]:
    if isinstance(node, ast.Raise):
        kind = "error"
    elif isinstance(node, ast.Call):
        name = ast.unparse(node.func).rpartition(".")[2]
        kind = "error" if name.endswith(("Error", "Refused")) else "note" if name in NOTES else kind
    elif isinstance(node, ast.JoinedStr | ast.Constant):
        text = " ".join(_text(node).split())
        if SENTENCE.search(text):
            yield getattr(node, "lineno", 0), kind, text
        return
    for child in ast.iter_child_nodes(node):
        docstring = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
        if not docstring:
            yield from _within(child, kind)


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.FormattedValue):
        return f"{{{ast.unparse(node.value)}}}"
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def main() -> None:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for line, kind, text in messages(path.read_text(encoding="utf-8")):
                sys.stdout.write(f"{path.relative_to(ROOT)}:{line}: {kind}: {text}\n")


if __name__ == "__main__":
    main()
