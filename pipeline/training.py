"""Runs: those that are asked for trained and saved, or found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from features.errors import UserError
from features.progress import progress, say
from pipeline.failures import reason
from pipeline.options import ALL, Options
from pipeline.summary import Row, report_runs, row

if TYPE_CHECKING:
    from features.cache.embeddings import Embeddings
    from models.runs.run import Run
    from models.trainsplit import TrainSplit

SEEDS = 2**31  # of scikit-learn's and TensorFlow's generators


@dataclass
class TrainSplitCache:
    """Where the train split lies that was read last; the next head on the same layers finds it there.

    Attributes
    ----------
    memory : what it may take, as ``MEMORY`` says.
    """

    memory: str | None = None
    material: TrainSplit | None = None

    def get(self, embeddings: Embeddings, layers: tuple[str, ...]) -> TrainSplit:
        """The train split of these layers; another one goes first, as two would fill the memory."""
        from models.trainsplit import TrainSplit

        there = self.material
        if there is None or (there.embeddings.path, there.layers) != (embeddings.path, layers):
            there = self.material = None
            self.material = TrainSplit(embeddings, layers, self.memory)
        return self.material  # type: ignore[return-value]


def train_heads(
    options: Options, embeddings: Embeddings, layers: tuple[str, ...], rows: TrainSplitCache
) -> tuple[list[Row], dict[str, str]]:
    """Train what ``HEAD`` and ``SEEDS`` name and print the folders.

    Returns the rows of the runs for the table at the end, and which of several failed, and why.
    """
    from models.heads.registry import HEADS, head
    from models.runs.saving import load

    names = list(HEADS) if options.head == ALL else [options.head]
    entries = {name: head(name, options.settings, options.swept) for name in names}
    jobs = [
        (name, options.seed + step)
        for name in names
        for step in range(options.seeds if entries[name].random else 1)
    ]
    if options.seeds > 1 and len(names) == 1 and len(jobs) == 1:
        say(f"{options.head} does not depend on the seed: one run says all that {options.seeds} would")
    there: list[Row] = []
    failed = {}
    with progress(len(jobs), "train", "run") as bar:
        for name, seed in jobs:
            try:
                folder = _trained(options, embeddings, layers, name, seed)
                if folder is None:
                    folder = _train_one(options, rows.get(embeddings, layers), name, seed)
                print(folder, flush=True)
                there.append(row(load(folder)))
            except BrokenPipeError:  # the run is saved; whoever read the output has seen enough
                raise
            except Exception as error:
                if len(jobs) == 1:
                    raise
                job = f"{name} with seed {seed}"
                failed[job] = reason(error, options, job)
            bar.update()
    return there, failed


def _trained(
    options: Options, embeddings: Embeddings, layers: tuple[str, ...], name: str, seed: int
) -> Path | None:
    """The folder of an equal run that is there already, unless ``FORCE`` wants another."""
    from models.runs.collection import find
    from models.runs.identity import identity

    asked = identity(embeddings, layers, name, seed, options.settings, options.swept)
    found = None if options.force else find(options.runs, asked)
    if found is not None:
        say(f"{name}: there already, not trained again (FORCE=1 would)")
    return found


def _train_one(options: Options, material: TrainSplit, name: str, seed: int) -> Path:
    from models.selection import train as train_head

    run = train_head(material, name, seed, options.settings, options.swept)
    cached = options.replace(precision=material.embeddings.spec["precision"])  # whatever auto takes elsewhere
    said = cached.command("train", "force", "seeds", "seed", "head")
    run.command = f"{said} HEAD={name}" + (f" SEED={run.seed}" if run.seed else "")
    return _saved(options, run)


def take_vote(options: Options, embeddings: Embeddings) -> int:
    """The soft vote of the runs on these embeddings, saved as a run of its own; the exit code."""
    from models.runs.collection import agree, find, load_all
    from models.runs.saving import load
    from models.vote import drop_others, eligible, vote

    layers = options.extractor("weights").layers if "layers" in options.said else None
    run = vote(eligible(load_all(options.runs), embeddings, layers))
    run.width = sum(embeddings.width(layer) for layer in run.layers)
    run.command = options.command("train", "force")
    there = None if options.force else find(options.runs, vars(run))
    if there is not None and agree(load(there).test_proba, run.test_proba):
        say(f"{run.head}: there already, not looked at again (FORCE=1 would)")
        print(there)
        run = load(there)  # its layers may stand in another order, and so its name be another
    else:
        print(_saved(options, run))
    drop_others(options.runs, run)
    report_runs([row(run)], options)
    return 0


def check_seeds(options: Options) -> None:
    """Refuse seeds that no generator takes, and no run at all."""
    if options.seeds < 1:
        raise UserError(f"SEEDS={options.seeds}: expected a number of runs, 1 or more")
    if options.seed < 0 or options.seed + options.seeds > SEEDS:
        raise UserError(f"SEED={options.seed}: expected 0 or more, with all SEEDS= of them below {SEEDS}")


def check_memory(options: Options) -> None:
    """Refuse what is no amount of memory before anything is read."""
    from features.budget import memory_of

    memory_of(options.memory)


def _saved(options: Options, run: Run) -> Path:
    from models.runs.saving import save

    return save(run, options.runs, trust=bool(options.trust))
