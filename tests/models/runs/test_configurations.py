"""Which run validation chooses: one rule, for ``predict``, ``export`` and the report."""

from __future__ import annotations

from itertools import permutations

from models.runs.configurations import ranked_on_validation, reason
from models.runs.run import Run
from reports.report import build
from tests.small_group import run

MEMBERS = {"a": 0.5, "b": 0.5}


def chosen(*runs: Run) -> Run:
    """The run that predicts, in whatever order these come."""
    (found,) = {ranked_on_validation(each)[0].runs[0].folder for each in permutations(runs)}
    return next(each for each in runs if each.folder == found)


def test_the_mean_over_seeds_counts_and_not_the_best_seed() -> None:
    ridge = run("ridge", (), validation=0.80)
    seeds = [run("dense", (), seed, validation=share) for seed, share in ((3, 0.70), (1, 0.86))]
    assert chosen(ridge, *seeds) is ridge
    assert reason(ranked_on_validation([ridge, *seeds])) == (
        "validation accuracy 0.8000, the best of 2 configurations"
    )


def test_the_lowest_seed_stands_for_its_configuration() -> None:
    ridge = run("ridge", (), validation=0.80)
    seeds = [run("dense", (), seed, validation=share) for seed, share in ((10, 0.90), (2, 0.74))]
    assert chosen(ridge, *seeds) is seeds[1]
    assert reason(ranked_on_validation([ridge, *seeds])) == (
        "mean validation accuracy 0.8200 over 2 seeds, the best of 2 configurations"
    )


def test_of_equals_the_first_by_folder_name_though_means_are_rounded() -> None:
    """The mean of three times 0.7 is not 0.7 in floating point."""
    lda = run("lda", (), validation=0.7)
    dense = [run("dense", (), seed, validation=0.7) for seed in range(3)]
    assert chosen(lda, *dense) is dense[0]
    assert reason(ranked_on_validation([lda, *dense])).endswith(
        "over 3 seeds, the best of 2 configurations, tied with 1 and first by name"
    )


def test_a_vote_competes_with_votes_alone() -> None:
    vote = run("vote", (), validation=0.99, members=MEMBERS)
    ridge = run("ridge", (), validation=0.5)
    assert chosen(vote, ridge) is ridge
    assert chosen(vote) is vote
    assert reason(ranked_on_validation([vote])) == (
        "validation accuracy 0.9900 on the images that its weights were fitted on, the only configuration "
        "that fits"
    )


def test_the_report_names_the_run_that_predicts() -> None:
    runs = [
        run("ridge", range(190), validation=0.80),
        run("dense", range(100), 0, validation=0.74),
        run("dense", range(140), 1, validation=0.90),
        run("vote", range(10), validation=0.99, members=MEMBERS, sweep=[]),
    ]
    (group,) = build(runs).groups
    assert chosen(*runs) is runs[1]
    assert "Validation alone would choose dense, at 60.0% on test." in group.answer
