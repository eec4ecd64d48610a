"""Mutation testing: of a seeded sample of small changes to a module, which does no test notice?

``make mutants MODULE=paired``; with numbers after the name, it tries those mutants alone. Each mutant is a
process of its own, forked from one that has imported NumPy and its kin; it runs the tests that execute the
changed lines, the quickest first, until one fails. Processes that a test starts have the module as it is.

The operators are those of mutmut 3 (https://github.com/boxed/mutmut), which changes nothing at the top of a
module or in decorated functions, properties among them. The wording of sentences is left alone.
"""

from __future__ import annotations

import ast
import atexit
import copy
import difflib
import importlib
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SAMPLE = 200
SECONDS = 60  # of processor time, for a mutant that loops; more than the tests of any module take
SELECTION = [f"tests/models/test_{name}.py" for name in ("selection", "trainsplit")]
WITHOUT_KERAS = "not dense and not baseline and not neural and not seed_and_head and not test_images"
CACHE = [f"tests/features/cache/test_{name}.py" for name in ("store", "embeddings", "stored", "parts")]
MODULES = {  # the files of each, and pytest's arguments for the quick tests that specify it
    "paired": (["reports/statistics/paired.py"], ["tests/reports/statistics/test_paired.py"]),
    "metrics": (["reports/statistics/metrics.py"], ["tests/reports/statistics/test_metrics.py"]),
    "identity": (["models/runs/identity.py"], ["tests/models/runs/test_identity.py"]),
    "selection": (["models/selection.py"], [*SELECTION, "-k", f"{WITHOUT_KERAS} and not Steps"]),
    "embeddings": (["features/cache/embeddings.py"], [*CACHE, "-m", "not slow"]),
    "store": (
        [f"features/cache/{name}.py" for name in ("store", "shards", "part", "index")],
        [*CACHE, "-m", "not slow"],
    ),
}
PAIRS = (
    (ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.BitAnd, ast.BitOr), (ast.LShift, ast.RShift),
    (ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn),
    (ast.And, ast.Or),
)  # fmt: skip
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    **dict(PAIRS),
    **{second: first for first, second in PAIRS},
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Div,
    ast.Pow: ast.Mult,
}
READY = {"_pytest", "h5py", "joblib", "numpy", "PIL", "scipy", "sklearn"}  # imported before the fork


def changed(node: ast.AST, **fields: Any) -> str:
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return ast.unparse(ast.fix_missing_locations(other))


def changes(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """The nodes to be replaced, each with what replaces it."""
    match node:
        case ast.BinOp() | ast.BoolOp() | ast.AugAssign() if type(node.op) in SWAPS:
            yield node, changed(node, op=SWAPS[type(node.op)]())
        case ast.Compare(ops=ops):
            for place, op in enumerate(ops):
                yield node, changed(node, ops=[*ops[:place], SWAPS[type(op)](), *ops[place + 1 :]])
        case ast.UnaryOp():
            yield node, ast.unparse(node.operand)
        case ast.Constant(value=bool(value)):
            yield node, str(not value)
        case ast.Constant(value=int(value)):
            yield node, repr(value + 1)
        case ast.Constant(value=float(value)):
            yield node, repr(0.9 * value or 1.0)
        case ast.Constant(value=str(value)) if " " not in value:
            yield node, repr(f"X{value}")
        case ast.Call(keywords=given):
            for place in range(len(given)):
                yield node, changed(node, keywords=given[:place] + given[place + 1 :])
        case ast.Return(value=ast.expr()):
            yield node, "return None"
        case ast.comprehension(ifs=conditions):
            yield from ((condition, "True") for condition in conditions)
    match node:
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            if not isinstance(test, ast.Compare | ast.UnaryOp):  # which are changed themselves
                yield test, f"not ({ast.unparse(test)})"
        case ast.AugAssign() | ast.Raise() | ast.Break() | ast.Continue():
            yield node, "pass"
        case ast.Expr(value=ast.Call()) | ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield node, "pass"


def walk(node: ast.AST, lines: range) -> Iterator[tuple[ast.AST, str, range]]:
    """:func:`changes` of a node and all below it, with the lines of its statement; none: the module's top."""
    yield from ((*change, lines) for change in changes(node))
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list") or isinstance(node, ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            inside = lines
            if isinstance(child, ast.stmt) and (lines or isinstance(node, ast.FunctionDef)):
                body = getattr(child, "body", None)
                inside = range(child.lineno, body[0].lineno if body else (child.end_lineno or 0) + 1)
            if isinstance(child, ast.AST):
                yield from walk(child, inside)


def mutants(file: str) -> Iterator[tuple[str, range, str]]:
    """The file, the lines of the changed statement, and the whole changed source."""
    source = (ROOT / file).read_bytes()
    starts = [0, *(at + 1 for at, byte in enumerate(source) if byte == ord("\n"))]
    node: Any
    for node, text, lines in walk(ast.parse(source), range(0)):
        first = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        text = f"({text})" if isinstance(node, ast.expr) and not isinstance(node, ast.Constant) else text
        yield file, lines, (source[:first] + text.encode() + source[end:]).decode()


class Tests:
    """Runs those that are named, in that order; of all it notes who executes which line, and for how long."""

    def __init__(self, named: list[str] | None = None, files: Sequence[str] = ()) -> None:
        self.named, self.files, self.current = named, {str(ROOT / file): file for file in files}, ""
        self.seconds: dict[str, float] = defaultdict(float)
        self.executed: dict[tuple[str, int], set[str]] = defaultdict(set)

    def trace(self, frame: Any, event: str, _: Any) -> Callable[..., Any] | None:
        if file := self.files.get(frame.f_code.co_filename):
            self.executed[file, frame.f_lineno].add(self.current)
            return self.trace
        return None

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self.named is not None:
            items[:] = [{item.nodeid: item for item in items}[name] for name in self.named]
        if self.files:
            threading.settrace(self.trace)
            sys.settrace(self.trace)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.current = nodeid

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration


def forked(work: Callable[[], int], output: Path, seconds: int) -> int:
    """The exit code of some work in a process of its own; minus a signal's number, if that ended it."""
    if (child := os.fork()) == 0:
        os.setsid()
        file = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        signal.alarm(60 * seconds)  # for what waits for ever
        code = 1
        try:
            code = int(work())
        finally:
            os._exit(code)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # and what a test has started


def main(name: str, *numbers: str) -> None:
    if name not in MODULES:
        sys.exit(f"error: MODULE={name}: expected one of {', '.join(MODULES)}")
    files, given = MODULES[name]
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    arguments = [*given, "-x", "-q", "-p", "no:cacheprovider", f"--basetemp={folder / 'tests'}"]
    os.chdir(ROOT)

    def unchanged() -> int:
        tests = Tests(files=files)
        code = pytest.main(arguments, [tests])
        sys.settrace(None)
        loaded = [module for module in sys.modules if module.partition(".")[0] in READY]
        (folder / "known").write_bytes(pickle.dumps((dict(tests.seconds), dict(tests.executed), loaded)))
        return code

    if forked(unchanged, folder / "output", 10 * SECONDS):
        sys.exit((folder / "output").read_text())
    seconds, executed, loaded = pickle.loads((folder / "known").read_bytes())
    for module in loaded:
        importlib.import_module(module)
    get_code = SourceFileLoader.get_code
    found = [mutant for file in files for mutant in mutants(file)]
    sample = random.Random(0).sample(range(len(found)), min(SAMPLE, len(found)))
    tried, survived = list(map(int, numbers)) or sorted(sample), 0
    for number in tried:
        file, lines, source = found[number]
        who = set(seconds) if not lines else set().union(*(executed.get((file, at), ()) for at in lines))

        def mutant(path: str = str(ROOT / file), source: str = source, who: set[str] = who) -> int:
            def code_of(self: SourceFileLoader, module: str) -> Any:
                return compile(source, path, "exec") if self.path == path else get_code(self, module)

            SourceFileLoader.get_code = code_of  # type: ignore[method-assign,assignment]
            needed = {test.partition("::")[0] for test in who}
            kept = [each for each in arguments if not each.endswith(".py") or each in needed]
            return pytest.main(kept, [Tests(sorted(who, key=lambda test: seconds[test]))])

        if not who or forked(mutant, folder / "output", SECONDS) == 0:
            survived += 1
            lines_of = [(ROOT / file).read_text().splitlines(), source.splitlines()]
            diff = difflib.unified_diff(*lines_of, file, f"mutant {number}", lineterm="", n=1)
            print("\n".join(diff), f"{len(who)} tests execute it\n", sep="\n", flush=True)
    killed = len(tried) - survived
    print(f"{name}: {len(tried)} of {len(found)} mutants, {killed} killed, {survived} survived")


if __name__ == "__main__":
    main(*sys.argv[1:])
