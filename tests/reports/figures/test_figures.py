"""What figures show, and what they must not hide."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from models.curve import Curve
from models.runs.run import Run
from reports.context.gathering import ReportContext
from reports.figures import plots, run_plots
from reports.figures.plot_style import NARROW, WIDE
from reports.page.render import draw, draw_narrow
from reports.report import Group, build
from tests.small_group import IMAGES, LABELS, group_of, run

pytestmark = pytest.mark.slow

HISTORY = {  # a network that does not learn: its loss stays at that of guessing
    "accuracy": [0.25, 0.2501, 0.25],
    "val_accuracy": [0.25, 0.25, 0.2502],
    "loss": [2.30260, 2.30259, 2.30258],
    "val_loss": [2.30259, 2.30259, 2.30259],
}
LONG = ("Rhinoceros unicornis, the greater one-horned rhinoceros", "$b$", "c" * 60, "d")


def sweep(accuracies: dict[Any, float]) -> dict[str, Any]:
    """Of ``knn``: accuracy by k, of which training accuracies fill the plot's other corner."""
    rows = [
        {"value": k, "accuracy": found, "loss": 1.0, "train_accuracy": 1.25 - found}
        for k, found in accuracies.items()
    ]
    return {"sweep": rows, "chosen": {"k": next(iter(accuracies))}}


def runs() -> list[Run]:
    """Nine heads between 25% and 80%, one of three seeds, on classes with long names."""
    long = {"class_names": LONG}
    return [
        *(run("dense", range(158 + seed), seed, history=HISTORY, kept_epoch=2, **long) for seed in range(3)),
        run("ridge", range(160), **long, **sweep({10**power: 0.5 + 0.1 * power for power in range(-3, 4)})),
        run("lda", range(157), **long),
        run("knn", range(150), **long, **sweep({1: 0.5, 5: 0.6, 10: 0.7, 100: 0.8})),
        run("centroid", range(100), **long),
        run("logistic", range(156), settings={"C": 0.123456}, **long),
        run("logistic", range(155), layers=("block3", "block4@2", "block5"), **long),
        run("vote", range(161), members={"a": 0.5, "b": 0.5}, sweep=[], **long),
        run("prior", range(50), **long),
    ]


@pytest.fixture(scope="module")
def figures() -> dict[str, Figure]:
    """All figures, wide and narrow."""
    every = runs()
    points = [{"shots": shots, "images": 4 * shots, "accuracy": [0.5, 0.6]} for shots in (1, 10, 40)]
    rng = np.random.default_rng(0)
    drawn: dict[str, Any] = {
        "layers": ["block5"], "rows": list(range(IMAGES)), "labels": LABELS.tolist(),
        "wrong": [True] * IMAGES, "pca": rng.random((IMAGES, 2)).tolist(),
        "tsne": rng.random((IMAGES, 2)).tolist(), "explained": [0.3, 0.2],
    }  # fmt: skip
    context = ReportContext(
        curves={each.folder: Curve(each.folder, points) for each in every},
        maps={each.id: drawn for each in every},
    )
    report = build(every, context)
    found = draw(report) | {f"{name} narrow": figure for name, figure in draw_narrow(report).items()}
    for figure in found.values():
        figure.draw_without_rendering()
    return found


def of_kind(figures: dict[str, Figure], *kinds: str) -> Iterator[tuple[str, Figure]]:
    return ((name, figure) for name, figure in figures.items() if name.startswith(kinds))


def test_no_axis_counts_from_an_offset(figures: dict[str, Figure]) -> None:
    for name, figure in figures.items():
        for axes in figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                assert axis.get_offset_text().get_text() == "", name


def test_no_legend_lies_over_data(figures: dict[str, Figure]) -> None:
    legends = 0
    for name, figure in figures.items():
        assert all(axes.get_legend() is None for axes in figure.axes), name
        for legend in figure.legends:
            legends += 1
            for axes in figure.axes:
                assert not legend.get_window_extent().overlaps(axes.get_window_extent()), name
    assert legends > 10


def test_nothing_is_cut_off(figures: dict[str, Figure]) -> None:
    for name, figure in figures.items():
        box, ground = figure.get_tightbbox(), figure.bbox_inches
        assert min(box.x0, box.y0, ground.x1 - box.x1, ground.y1 - box.y1) > -0.03, (name, box)


def test_no_legends_or_panels_overlap(figures: dict[str, Figure]) -> None:
    for name, figure in figures.items():
        boxes = [part.get_window_extent() for part in (*figure.axes, *figure.legends)]
        assert not any(one.padded(-1).overlaps(other.padded(-1)) for one, other in combinations(boxes, 2)), (
            name
        )


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_figures_have_the_width_that_is_asked_for(figures: dict[str, Figure], width: float) -> None:
    ending = " narrow" if width == NARROW else ""
    for kind in ("comparison", "coverage", "learning", "pareto", "map"):
        assert figures[f"{kind}-0{ending}"].get_figwidth() == width
    assert figures[f"pairs-0{ending}"].get_figwidth() <= width


class TestComparison:
    def drawn(self, *each: Run) -> tuple[list[str], str, Figure]:
        figure = plots.comparison(group_of(*each))
        (axes,) = figure.axes
        note = figure.get_supxlabel()
        return [label.get_text() for label in axes.get_yticklabels()], note, figure

    def test_the_axis_shows_the_best_and_the_others_are_named_beside_it(self) -> None:
        names, note, figure = self.drawn(*runs())
        assert names[:2] == ["vote", "ridge"]
        assert "centroid" not in names and "prior" not in names
        assert note.endswith("lower, not drawn: centroid 0.500, prior 0.250")
        low, _ = figure.axes[0].get_xlim()
        assert low > 0.6

    def test_those_that_are_level_with_the_best_have_its_colour(self) -> None:
        names, note, figure = self.drawn(
            run("ridge", range(160)), run("lda", range(157)), run("knn", range(140))
        )
        (axes,) = figure.axes
        colours = [container.lines[0].get_color() for container in axes.containers]
        assert names == ["ridge", "lda", "knn"]
        assert colours[0] == colours[1] != colours[2]
        assert note == "blue: the best, and those not distinguishable from it"

    def test_seeds_are_small_bars_below_their_mean(self) -> None:
        _, note, figure = self.drawn(run("dense", range(160), 0), run("dense", range(150), 1))
        bars = [line.get_xdata() for line in figure.axes[0].get_lines() if line.get_marker() == "|"]
        assert [list(each) for each in bars if len(each) == 2][-1] == [0.8, 0.75]
        assert note == "small bars: single seeds"

    def test_heads_of_equal_accuracy_do_not_stretch_the_axis(self) -> None:
        """Of a million images the interval is 0.2 points wide: an axis shows 2 points all the same."""
        labels = np.arange(200_000) % 4
        alone = run("ridge", range(199_999), labels=labels)
        _, _, figure = self.drawn(alone)
        low, high = figure.axes[0].get_xlim()
        assert high - low == pytest.approx(0.02)


class TestPairs:
    def drawn(self, *each: Run, width: float = WIDE) -> tuple[Group, Figure]:
        group = group_of(*each)
        return group, plots.pairs(group, width)

    def colours(self, figure: Figure) -> tuple[float, list[str]]:
        axes, bar = figure.axes
        (image,) = axes.get_images()
        _, limit = image.get_clim()
        return limit, [label.get_text() for label in bar.get_xticklabels()]

    def test_a_head_far_off_leaves_the_others_their_colours(self) -> None:
        """Between the best three 0.5 to 1.5 points, to the last two 30 and more."""
        _, figure = self.drawn(
            run("ridge", range(160)), run("lda", range(159)), run("knn", range(157)),
            run("centroid", range(100)), run("prior", range(50)),
        )  # fmt: skip
        limit, ends = self.colours(figure)
        assert limit == 2, "a quarter of the three lies within 0.75 points"
        assert ends == ["≤ -2", "0", "≥ +2"], "the bar says where it is clipped"

    def test_where_nothing_is_clipped_the_bar_does_not_say_so(self) -> None:
        _, figure = self.drawn(run("ridge", range(160)), run("lda", range(155)))
        assert self.colours(figure) == (5, ["-5", "0", "+5"])

    def test_cells_too_small_for_numbers_say_what_is_not_distinguishable(self) -> None:
        several = [
            run("ridge", range(160 - 15 * place), settings={"alpha": 2.0**place}) for place in range(9)
        ]
        group, figure = self.drawn(*several, width=NARROW)
        texts = [text.get_text() for text in figure.axes[0].texts]
        level = 2 * sum(not pair.distinguishable for pair in group.pairs)
        assert texts.count("=") == level and texts.count("") == len(texts) - level


class TestConfusion:
    def drawn(self, confusion: Any) -> Any:
        (entry,) = group_of(run("ridge", range(150))).entries
        object.__setattr__(entry, "confusion", confusion)
        (axes, _) = run_plots.confusion_matrix(
            entry, [f"class {code}" for code in range(len(confusion))]
        ).axes
        return axes

    @pytest.mark.parametrize(("classes", "shown"), [(2, 2), (20, 20), (25, 25), (40, 40), (60, 20)])
    def test_all_classes_are_named_or_the_most_confused(self, classes: int, shown: int) -> None:
        confusion = np.random.default_rng(0).integers(1, 50, (classes, classes))
        axes = self.drawn(confusion.tolist())
        assert len(axes.get_xticklabels()) == len(axes.get_yticklabels()) == shown
        assert len(axes.texts) == (shown**2 if shown <= run_plots.ANNOTATED else 0)
        assert ("20 of 60 classes" in axes.get_title()) is (classes == 60)

    def test_cells_without_images_carry_no_number(self) -> None:
        axes = self.drawn([[3, 0], [1, 2]])
        assert [text.get_text() for text in axes.texts] == ["100", "33", "67"]

    def test_the_most_confused_classes_come_from_the_most_frequent_errors(self) -> None:
        """The diagonal is no error; 4 and 1 are confused most, then 0 and 4, then 3 and 2."""
        counts = np.diag([100, 90, 80, 70, 60, 50])
        counts[4, 1], counts[0, 4], counts[3, 2] = 9, 8, 7
        assert run_plots.most_confused(counts, 2).tolist() == [1, 4]
        assert run_plots.most_confused(counts, 3).tolist() == [0, 1, 4]
        assert run_plots.most_confused(counts, 4).tolist() == [0, 1, 4], "a pair is shown whole"
        assert run_plots.most_confused(counts, 5).tolist() == [0, 1, 2, 3, 4]


def test_a_flat_curve_is_drawn_flat(figures: dict[str, Figure]) -> None:
    for _, figure in of_kind(figures, "loss-", "accuracy-"):
        low, high = figure.axes[0].get_ylim()
        assert high - low > 0.019


@pytest.mark.parametrize(("classes", "lines"), [(4, 4 + 1), (20, 20 + 1), (30, 1 + 1)])
def test_a_map_of_many_classes_has_one_colour(classes: int, lines: int) -> None:
    """And the errors, which are crossed."""
    places = np.zeros((IMAGES, 2)).tolist()
    drawn = {
        "layers": ["block5"], "rows": list(range(IMAGES)), "labels": LABELS.tolist(),
        "wrong": [False] * IMAGES, "pca": places, "tsne": places, "explained": [0.3, 0.2],
    }  # fmt: skip
    names = tuple(f"class {code}" for code in range(classes))
    one = run("ridge", (), class_names=names, test_proba=np.eye(classes)[LABELS])
    (axes, _) = plots.embedding_map(group_of(one, maps={one.id: drawn})).axes
    assert len(axes.get_lines()) == lines
