"""The command line: ``python -m pipeline features``, ``train``, ``report`` and others."""

from __future__ import annotations

import argparse
import inspect
import os
import shlex
import sys
import warnings
from contextlib import redirect_stdout
from typing import Any

from features.errors import UserError

STAGES = {
    "features": "run the frozen network over a dataset once and cache its embeddings",
    "train": "train a classifier head, or all of them, on cached embeddings",
    "ladder": "train the runs of the ablation ladder, from the baseline to the best",
    "curve": "validation accuracy of trained heads against the number of training images",
    "report": "compare all trained heads: index.html, report.md, report.json, runs.csv, table.tex, figures/",
    "verify": "check every digest of a cache and embed a sample of its images again",
    "predict": "classify new images with a trained head",
    "evaluate": "score a trained head on other labelled images",
    "export": "write a trained head as a plain scikit-learn or Keras object",
}
ALWAYS = ("out", "debug")
IMAGES = ("dataset", "archive", "limit", "skip_unreadable", "weights", "precision", "batch", *ALWAYS)
EMBEDDINGS = (*IMAGES, "backbone", "layers", "image_size", "preprocess", "mirror", "store")
PLACE = ("max_file", "executor", "address")
RUNS = (*EMBEDDINGS, "head", "set", "scale", "grid", "seed")
SHOWN = {  # options in --help of a stage; it accepts all others too, so that one line serves all stages
    "features": (*EMBEDDINGS, *PLACE),
    "train": (*RUNS, "memory", "seeds", "force", "trust"),
    "ladder": (*IMAGES, *PLACE, "memory", "seed", "seeds", "force"),
    "curve": (*RUNS, "memory"),
    "report": (*RUNS, "memory", "format"),
    "verify": EMBEDDINGS,
    "predict": (*RUNS, "run", "image", "memory", "format", "trust"),
    "evaluate": (*RUNS, "run", "memory", "format", "trust"),
    "export": (*RUNS, "run", "to", "trust"),
}
OWN_DEFAULTS = {("curve", "head"): "each that has a run", ("report", "format"): "csv"}
AMONG = ("report", "predict", "evaluate", "export")  # select among existing runs; options have no defaults
NARROWED = " Uses all runs under OUT, or those that match the given options: --head, --layers and so on."
EXAMPLES = {
    "features": "python -m pipeline features --dataset digits --image-size 64",
    "train": "python -m pipeline train --head dense --seeds 5",
    "ladder": "python -m pipeline ladder --dataset path/to/folder",
    "curve": "python -m pipeline curve --head all",
    "report": "python -m pipeline report --out out",
    "verify": "python -m pipeline verify --dataset path/to/folder",
    "predict": "find photos -name '*.jpg' | python -m pipeline predict --image - --csv",
    "evaluate": "python -m pipeline evaluate --run logistic --dataset path/to/folder --json",
    "export": "python -m pipeline export --head logistic --to head.joblib",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    0: success. 1: partial success: ``verify`` found a problem, one of several runs failed, or an image could
    not be read; each is named. 2: an error that the user can fix, explained in one line. 130: interrupted;
    finished work is kept. Any other exception is a bug in Headroom and is raised.
    """
    output = _Output(sys.stdout)
    try:
        with redirect_stdout(output):
            try:
                return _run(sys.argv[1:] if argv is None else argv)
            finally:
                output.flush()  # errors at exit would not be reported
    except _OutputError as error:
        _let_go_of_output()
        print(
            f"error: cannot write standard output: {error.strerror}; make room, or send it elsewhere",
            file=sys.stderr,
        )
        return 2
    except BrokenPipeError:  # the reader closed the pipe
        _let_go_of_output()
        return 0


def _run(argv: list[str]) -> int:
    """:func:`main` without the handling of output errors."""
    try:
        arguments = vars(parser(argv).parse_args(argv))
        stage = arguments.pop("stage")
        from pipeline import stages
        from pipeline.failures import noting_interrupts
        from pipeline.options import Options

        options = Options(**arguments, said=tuple(arguments))
    except ModuleNotFoundError as error:  # not the Python of `make setup`
        again = f".venv/bin/python -m pipeline {shlex.join(argv)}"
        print(f"error: {sys.executable} has no {error.name}; run: make setup, then: {again}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _interrupted(f".venv/bin/python -m pipeline {shlex.join(argv)}")
    try:
        options.check()
        # Pillow's warnings name no file. Unreadable images are reported; corrupt EXIF data is ignored.
        warnings.filterwarnings("ignore", module="PIL")
        with noting_interrupts():
            return int(getattr(stages, stage)(options))
    except UserError as error:
        from pipeline.failures import in_users_words, trace

        if options.debug:
            print(trace(error), end="", file=sys.stderr)
        print(f"error: {in_users_words(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _interrupted(options.command(stage))
    except Exception as error:
        from pipeline.failures import is_interrupt, memory, trace

        if is_interrupt(error):
            return _interrupted(options.command(stage))
        if (line := memory(error, stage)) is None:
            raise
        if options.debug:
            print(trace(error), end="", file=sys.stderr)
        print(f"error: {line}; asked for: {options.command(stage)}", file=sys.stderr)
        return 2


def _interrupted(again: str) -> int:
    print(f"\ninterrupted; finished work is kept. To resume: {again}", file=sys.stderr)
    return 130


class _OutputError(BrokenPipeError):
    """Standard output cannot be written; propagates like a closed pipe."""


class _Output:
    """Standard output, with errors that can be distinguished from those of other files."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._failure: _OutputError | None = None  # argparse ignores it

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> Any:
        return self._try(self._stream.write, text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, do: Any, *given: str) -> Any:
        if self._failure is not None:
            raise self._failure
        try:
            return do(*given)
        except BrokenPipeError:
            raise
        except OSError as error:
            self._failure = _OutputError(error.errno, error.strerror)
            raise self._failure from None


def _let_go_of_output() -> None:
    """Redirect standard output to /dev/null, so that flushing it at exit does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser(argv: list[str]) -> argparse.ArgumentParser:
    """The parser for this command line, with the options of the stage that it names."""
    top = _Parser(
        prog="python -m pipeline",
        description="Headroom: how far does a frozen network take you on these images, and which "
        "classifier on top is really better?",
        epilog="Help on a stage: python -m pipeline train --help. Each stage is also a make target, with "
        "variables for options: make train HEAD=dense SEEDS=5",
    )
    stages = top.add_subparsers(dest="stage", required=True, metavar="stage")
    for stage, about in STAGES.items():
        sub = stages.add_parser(
            stage,
            help=about,
            description=about[0].upper() + about[1:] + "." + NARROWED * (stage in AMONG),
            epilog=f"Options of other stages are accepted and ignored. Example: {EXAMPLES[stage]}",
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )
        if stage in argv:
            _add_options(sub, stage)
    return top


def _add_options(sub: argparse.ArgumentParser, stage: str) -> None:
    from features.backbones.extractor import PRECISIONS, PREPROCESS, STORES, Extractor
    from features.backbones.registry import BACKBONES, DEFAULT
    from features.cache.store import MAX_FILE
    from features.executors.registry import EXECUTORS
    from models.heads.registry import HEADS
    from pipeline.options import Options

    defaults = _defaults(Options) | _defaults(Extractor.__init__)
    defaults |= {"layers": BACKBONES[DEFAULT].layers, "max_file": MAX_FILE}
    heads = "; ".join(f"{name}: {entry.about}" for name, entry in HEADS.items())
    texts: dict[str, tuple[type, str]] = {
        "dataset": (
            str,
            "cifar10, cifar100, digits, or a path: a folder with train/<class>/ and test/<class>/ or "
            "<class>/ alone; a .csv or .parquet list with the columns path and label, and perhaps split "
            "(train or test); pictures in Parquet as Hugging Face stores them, or WebDataset's tars: a file, "
            "or a folder of train-* and test-*",
        ),
        "archive": (
            str,
            "path of CIFAR's official archive; default: found or downloaded",
        ),
        "backbone": (str, f"the network: {', '.join(BACKBONES)}"),
        "layers": (
            str,
            f"layers of the network ({', '.join(BACKBONES[DEFAULT].taps)} of {DEFAULT}; an unknown one lists "
            "those of others), with @g for a g x g grid, separated by commas, in any order",
        ),
        "image_size": (int, "side of the network's square input in pixels, at least 32"),
        "preprocess": (str, " or ".join(PREPROCESS)),
        "precision": (
            str,
            f"arithmetic of the network: {', '.join(PRECISIONS)}, or auto: the "
            "cached one, else the fastest that agrees with float32",
        ),
        "mirror": (int, "1: average the vectors of each image and its mirror image, at twice the cost"),
        "store": (
            str,
            f"dtype of stored embeddings: {' or '.join(STORES)}, which takes half the disk",
        ),
        "weights": (
            str,
            "path of the network's weights (.h5, .weights.h5); default: found or downloaded",
        ),
        "batch": (
            int,
            "images per call of the network; affects results only by rounding; default: by image size",
        ),
        "limit": (int, "only this many images of each split, stratified"),
        "skip_unreadable": (
            int,
            "1: leave out images that cannot be read, instead of stopping at the first; every image is "
            "decoded once to find them (and the result remembered), and they are listed in OUT/logs and "
            "counted in the report",
        ),
        "max_file": (
            str,
            "bytes of vectors in one file, such as 50GB or 700MB; above it a cache is a folder of HDF5 files",
        ),
        "executor": (str, f"what embeds the images: {' or '.join(EXECUTORS)}"),
        "address": (str, "host:port of a Ray cluster; default: Ray is started on this machine"),
        "head": (
            str,
            f"which classifier ({heads}); all: each of them; vote: the soft vote of existing runs; "
            "any classifier of scikit-learn by the name of its class, such as LogisticRegression; or "
            "module:Class, which runs the code of that module",
        ),
        "set": (str, "parameters of the head, as in learning_rate=0.1,epochs=40; they are not swept"),
        "grid": (str, "values of one parameter to choose from on validation, as in C=0.001,0.01,0.1"),
        "scale": (
            str,
            "standard: scikit-learn's StandardScaler before a classifier of scikit-learn's or of another "
            "package; Headroom's own heads need none",
        ),
        "memory": (
            str,
            "memory limit for embeddings and what is computed from them, as in 4GB; larger splits are read "
            "in blocks; default: the free memory less a tenth",
        ),
        "trust": (
            int,
            "1: save and load fitted classifiers of other packages (module:Class) with joblib, whose files "
            "run code when loaded",
        ),
        "seed": (int, "random state of the head"),
        "seeds": (int, "number of runs of a head that depends on the seed, with consecutive seeds"),
        "force": (int, "1: train again, although the run exists"),
        "run": (
            str,
            "folder of a run, or part of its name; default: the configuration (runs that differ only in "
            "their seed) with the highest mean validation accuracy, and its lowest seed; a vote only with "
            "--head vote or if there are no other runs",
        ),
        "image": (str, "what to predict: an image, a folder, or - for a list on standard input"),
        "format": (
            str,
            "of predictions: table, json (an object per line), csv or spreadsheet (csv "
            "with an apostrophe before text that would be a formula); of runs.csv: csv or spreadsheet",
        ),
        "to": (str, "the file to export to, .joblib (or .skops), for a Keras head .keras"),
        "out": (str, "folder of all output: embeddings/, runs/, curves/, report/, logs/"),
        "debug": (int, "1: print the traceback of every error"),
    }
    for name, (kind, text) in texts.items():
        default = OWN_DEFAULTS.get((stage, name), defaults.get(name))
        if default is not None and not (stage in AMONG and name in RUNS and name not in ALWAYS):
            text += f" (default: {int(default) if kind is int else default})"
        more: dict[str, Any] = {"metavar": "N" if kind is int else "TEXT"}
        if name in ("force", "mirror", "trust", "debug", "skip_unreadable"):
            more |= {"nargs": "?", "const": 1}
        more["help"] = text if name in SHOWN[stage] else argparse.SUPPRESS
        sub.add_argument("--" + name.replace("_", "-"), type=kind, **more)
    for form in ("json", "csv"):
        read = stage == "predict" or (stage, form) == ("evaluate", "json")
        help_ = f"--format {form}" if read else argparse.SUPPRESS
        sub.add_argument(f"--{form}", dest="format", action="store_const", const=form, help=help_)


def _defaults(callable_: Any) -> dict[str, Any]:
    return {name: item.default for name, item in inspect.signature(callable_).parameters.items()}


class _Parser(argparse.ArgumentParser):
    """A parser that reports errors in one line, with exit code 2."""

    def error(self, message: str) -> Any:
        print(f"error: {' '.join(message.splitlines())}; see: {self.prog} --help", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    sys.exit(main())
