"""Training and saving runs, unless they exist."""

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

SEEDS = 2**31  # number of seeds that scikit-learn and TensorFlow accept


@dataclass
class TrainSplitCache:
    """The train split that was read last, for the next head on the same layers.

    Attributes
    ----------
    memory : memory limit, as in ``MEMORY``.
    material : the train split, or None.
    """

    memory: str | None = None
    material: TrainSplit | None = None

    def get(self, embeddings: Embeddings, layers: tuple[str, ...]) -> TrainSplit:
        """The train split of these layers; frees another one first."""
        from models.trainsplit import TrainSplit

        there = self.material
        if there is None or (there.embeddings.path, there.layers) != (embeddings.path, layers):
            there = self.material = None
            self.material = TrainSplit(embeddings, layers, self.memory)
        return self.material  # type: ignore[return-value]


def train_heads(
    options: Options, embeddings: Embeddings, layers: tuple[str, ...], rows: TrainSplitCache
) -> tuple[list[Row], dict[str, str]]:
    """Train the heads in ``HEAD`` with ``SEEDS`` and print the folders of the runs.

    Returns
    -------
    tuple
        A row per run for the final table, and the reasons of failures by job.
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
        say(f"{options.head} does not depend on the seed: one run is enough")
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
            except BrokenPipeError:  # the run is saved; the reader closed the pipe
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
    """The folder of an existing equal run, or None; None with ``FORCE``."""
    from models.runs.collection import find
    from models.runs.identity import identity

    asked = identity(embeddings, layers, name, seed, options.settings, options.swept)
    found = None if options.force else find(options.runs, asked)
    if found is not None:
        say(f"{name}: already trained, not trained again (FORCE=1 would)")
    return found


def _train_one(options: Options, material: TrainSplit, name: str, seed: int) -> Path:
    from models.selection import train as train_head

    run = train_head(material, name, seed, options.settings, options.swept)
    cached = options.replace(
        precision=material.embeddings.spec["precision"]
    )  # instead of auto, which may differ elsewhere
    said = cached.command("train", "force", "seeds", "seed", "head")
    run.command = f"{said} HEAD={name}" + (f" SEED={run.seed}" if run.seed else "")
    return _saved(options, run)


def take_vote(options: Options, embeddings: Embeddings) -> int:
    """Save the soft vote of the runs on these embeddings; returns the exit code."""
    from models.runs.collection import agree, find, load_all
    from models.runs.saving import load
    from models.vote import drop_others, eligible, vote

    layers = options.extractor("weights").layers if "layers" in options.said else None
    run = vote(eligible(load_all(options.runs), embeddings, layers))
    run.width = sum(embeddings.width(layer) for layer in run.layers)
    run.command = options.command("train", "force")
    there = None if options.force else find(options.runs, vars(run))
    if there is not None and agree(load(there).test_proba, run.test_proba):
        say(f"{run.head}: already trained, not predicted again (FORCE=1 would)")
        print(there)
        run = load(there)  # whose name may differ, by the order of its layers
    else:
        print(_saved(options, run))
    drop_others(options.runs, run)
    report_runs([row(run)], options)
    return 0


def check_seeds(options: Options) -> None:
    """Refuse seeds out of range, and fewer than one run."""
    if options.seeds < 1:
        raise UserError(f"SEEDS={options.seeds}: expected a number of runs, 1 or more")
    if options.seed < 0 or options.seed + options.seeds > SEEDS:
        raise UserError(f"SEED={options.seed}: expected 0 or more, with all SEEDS= of them below {SEEDS}")


def check_memory(options: Options) -> None:
    """Refuse an invalid memory limit before anything is read."""
    from features.budget import memory_of

    memory_of(options.memory)


def _saved(options: Options, run: Run) -> Path:
    from models.runs.saving import save

    return save(run, options.runs, trust=bool(options.trust))
