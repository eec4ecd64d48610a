"""A train split that does not fit into the memory is read in blocks, and says the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from features.errors import UserError
from models import selection
from models.heads import saved
from models.heads.blocks import Blocks, Held, evenly, in_blocks, sample
from models.heads.knn import HELD, KnnHead
from models.heads.registry import HEADS
from models.runs.run import Run
from models.storedrows import StoredRows
from models.trainsplit import TrainSplit
from tests.models.heads.test_heads import blobs
from tests.models.test_selection import Fake

LAYERS = ("block5",)
MEMORY = 9_000  # bytes: 1,000 rows of 8 values take 32,000


class Stored(Fake):
    """Embeddings that are read in blocks; notes how large the blocks were."""

    def __init__(self, folder: Path, rows: int = 1_200, train: int = 1_000, width: int = 8) -> None:
        X, y = blobs(rows=rows, width=width)
        X += np.random.default_rng(1).normal(0, 2, X.shape).astype(np.float32)  # classes overlap
        by_class = np.argsort(y[:train], kind="stable")  # as a folder's rows lie
        X[:train], y[:train] = X[by_class], y[by_class]
        super().__init__(X, y, train)
        self.path = folder / "fake.h5"
        self.sizes: list[int] = []

    def blocks(
        self, split: str, layers: Sequence[str], rows: int
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        for start in range(0, self.rows[split], rows):
            yield start, self._read(split, slice(start, start + rows))

    def take_each(self, split: str, layers: Sequence[str], sets: Any) -> Iterator[NDArray[np.float32]]:
        for rows in sets:
            yield self._read(split, rows)

    def take(self, split: str, layers: Sequence[str], rows: Any) -> NDArray[np.float32]:
        return self._read(split, rows)

    def _read(self, split: str, rows: Any) -> NDArray[np.float32]:
        block = self._X[split][rows].copy()
        self.asked.append(f"X {split}")
        self.sizes.append(block.nbytes)
        return block


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


def both(
    stored: Stored, head: str, settings: dict[str, Any] | None = None, memory: int = MEMORY
) -> tuple[Run, Run]:
    """The run of a head in memory, and in blocks."""
    return (
        selection.train(split(stored), head, 0, settings),
        selection.train(split(stored, memory), head, 0, settings),
    )


def split(stored: Stored, memory: int | str | None = None) -> TrainSplit:
    return TrainSplit(stored, LAYERS, memory)  # type: ignore[arg-type]


class TestTheSplit:
    def test_what_fits_is_in_memory(self, stored: Stored) -> None:
        assert not isinstance(split(stored).X, Blocks)
        assert not isinstance(split(stored, 32_000).X, Blocks)
        assert isinstance(split(stored, 31_999).X, Blocks)

    def test_rows_labels_and_numbers_are_those_in_memory(self, stored: Stored) -> None:
        whole, parts = split(stored), split(stored, MEMORY)
        assert np.array_equal(whole.val_rows, parts.val_rows)
        for name, rows in (("fit", parts.fit_rows), ("val", parts.val_rows)):
            X, y = getattr(parts, f"X_{name}"), getattr(parts, f"y_{name}")
            places, blocks = zip(*in_blocks(X), strict=True)
            assert np.array_equal(np.concatenate(blocks), stored._X["train"][rows])
            assert np.array_equal(np.concatenate(blocks), getattr(whole, f"X_{name}"))
            assert np.array_equal(y, getattr(whole, f"y_{name}"))
            assert places[0].start == 0
            assert places[-1].stop == len(X) == len(rows)

    def test_samples_are_evenly_spaced(self, stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("models.heads.blocks.SAMPLE", 100)
        parts = split(stored, MEMORY)
        for X in (parts.X, parts.X_fit):
            every = np.concatenate([block for _, block in in_blocks(X)])
            kept = np.concatenate([block for _, block in in_blocks(sample(X))])
            assert np.array_equal(kept, every[evenly(len(every))])
            assert len(kept) == 100

    def test_blocks_are_a_share_of_the_memory(self, stored: Stored) -> None:
        list(split(stored, MEMORY).X)
        assert max(stored.sizes) <= MEMORY / 16

    def test_it_says_why_it_reads_in_blocks(self, stored: Stored, capsys: pytest.CaptureFixture[str]) -> None:
        split(stored, MEMORY)
        assert (
            "1,000 training images are 0.0 GB, more than the memory limit of 0.0 GB"
            in capsys.readouterr().err
        )

    def test_its_temporary_file_has_no_name(self, stored: Stored, tmp_path: Path) -> None:
        material = split(stored, MEMORY)
        assert isinstance(material.X_val, Blocks)
        assert list(tmp_path.iterdir()) == []

    def test_no_room_for_it_is_told(self, stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("", (), {"free": 100}))
        with pytest.raises(
            UserError, match=r"not enough disk space in .* for a copy of 100 rows.* a larger memory="
        ):
            sample(split(stored, MEMORY).X)

    def test_a_folder_that_may_not_be_written_is_told(self, stored: Stored, tmp_path: Path) -> None:
        stored.path = tmp_path / "file" / "fake.h5"
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match=r"cannot write a temporary file in .*file: Not a directory"):
            sample(split(stored, MEMORY).X)

    @pytest.mark.parametrize("bad", [np.inf, np.nan])
    def test_what_is_no_number_is_refused(self, stored: Stored, bad: float) -> None:
        stored._X["train"][777, 3] = bad
        with pytest.raises(UserError, match="contains NaN or infinite numbers; verify the cache"):
            selection.train(split(stored, MEMORY), "centroid", 0)

    @pytest.mark.parametrize("memory", ["much", "4 apples", "-1", "0", "1e9", "GB"])
    def test_what_is_no_amount_of_memory_is_refused(self, stored: Stored, memory: str) -> None:
        with pytest.raises(UserError, match=rf"memory={memory}: expected bytes, such as"):
            split(stored, memory)

    def test_an_amount_has_a_unit_or_is_in_bytes(self, stored: Stored) -> None:
        amounts = ("4GB", "700 MB", "1.5gb", "31999", 12)
        assert [split(stored, each).memory for each in amounts] == [4e9, 7e8, 1.5e9, 31_999, 12]


@pytest.mark.parametrize("head", ["prior", "centroid", "lda", "ridge"])
class TestHeadsOfMoments:
    def test_they_are_those_in_memory(self, stored: Stored, head: str) -> None:
        """Up to the rounding of products in float32, which are of other blocks."""
        whole, parts = both(stored, head)
        assert parts.chosen == whole.chosen
        assert parts.id == whole.id
        rounding = 100 * np.finfo(np.float32).eps
        np.testing.assert_allclose(parts.val_proba, whole.val_proba, atol=rounding)
        np.testing.assert_allclose(parts.test_proba, whole.test_proba, atol=rounding)
        assert parts.train_accuracy == whole.train_accuracy
        assert parts.floors == whole.floors

    def test_a_run_says_how_it_was_fitted(self, stored: Stored, head: str) -> None:
        whole, parts = both(stored, head)
        (remark,) = set(parts.warnings) - set(whole.warnings)
        assert remark.startswith("fitted out of core: the training images take")


@pytest.mark.parametrize("head", ["ridge", "lda"])
def test_a_covariance_that_does_not_fit_is_refused_with_its_bytes(tmp_path: Path, head: str) -> None:
    wide = Stored(tmp_path, width=64)
    with pytest.raises(UserError, match=rf"the head {head} needs at least .* \(8 x 64 x 64 bytes of covari"):
        selection.train(split(wide, 60_000), head, 0)
    assert selection.train(split(wide, 120_000), head, 0).head == head


@pytest.mark.parametrize("head", ["logistic", "svm"])
@pytest.mark.parametrize("memory", [100_000, 300_000], ids=["low rank", "full"])
class TestHeadsOfSteps:
    """Both ways of preconditioning lead to the same optimum."""

    SETTINGS: ClassVar = {"C": 0.03, "tol": 1e-6}

    def test_they_reach_the_optimum_of_those_in_memory(self, tmp_path: Path, head: str, memory: int) -> None:
        wide = Stored(tmp_path, rows=2_600, train=2_400, width=32)
        whole = selection.train(split(wide), head, 0, self.SETTINGS)
        parts = selection.train(split(wide, memory), head, 0, self.SETTINGS)
        np.testing.assert_allclose(parts.test_proba, whole.test_proba, atol=2e-4)
        np.testing.assert_allclose(parts.val_proba, whole.val_proba, atol=2e-4)

    def test_passes_over_the_disk_are_told(self, tmp_path: Path, head: str, memory: int) -> None:
        material = split(Stored(tmp_path, rows=2_600, train=2_400, width=32), memory)
        run = selection.train(material, head, 0)
        (remark,) = (said for said in run.warnings if said.startswith("fitted out of core"))
        assert f"rows were read {material.passes} times from the disk" in remark
        assert material.passes > len(run.sweep)


class TestDense:
    SETTINGS: ClassVar = {"hidden": (16,), "epochs": 6, "patience": None, "batch_size": 32}

    @pytest.fixture(autouse=True)
    def _small_calls(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in ("dense", "epochs"):
            monkeypatch.setattr(f"models.heads.{module}.CALL_BYTES", 4_096)

    def test_rows_that_lie_class_by_class_are_mixed(self, stored: Stored) -> None:
        whole, parts = both(stored, "dense", self.SETTINGS, memory=30_000)
        assert parts.id == whole.id
        assert parts.parameters == whole.parameters
        assert list(parts.history) == list(whole.history)
        assert abs(parts.val_accuracy - whole.val_accuracy) <= 0.03
        assert abs(parts.train_accuracy - whole.train_accuracy) <= 0.03
        assert any(said.startswith("fitted out of core") for said in parts.warnings)

    def test_one_seed_gives_one_result(self, stored: Stored) -> None:
        one, two = (selection.train(split(stored, 30_000), "dense", 5, self.SETTINGS) for _ in range(2))
        np.testing.assert_allclose(one.test_proba, two.test_proba, atol=1e-4)

    def test_a_network_that_does_not_fit_is_refused_with_its_bytes(self, stored: Stored) -> None:
        with pytest.raises(
            UserError, match=r"the head dense needs at least .* \(6 x 5,632 weights x 4 bytes"
        ):
            selection.train(split(stored, 30_000), "dense", 0)

    def test_validation_decides_when_to_stop(self, stored: Stored) -> None:
        run = selection.train(split(stored, 30_000), "dense", 0, self.SETTINGS | {"patience": 2})
        assert run.chosen == {"stop_epoch": int(np.argmax(run.history["val_accuracy"])) + 1}


class TestKnn:
    def test_it_has_the_neighbours_that_it_has_in_memory(self, stored: Stored) -> None:
        whole, parts = both(stored, "knn", memory=300_000 // 10)
        assert parts.chosen == whole.chosen
        np.testing.assert_allclose(parts.val_proba, whole.val_proba, atol=1e-4)
        np.testing.assert_allclose(parts.test_proba, whole.test_proba, atol=1e-4)
        assert parts.train_accuracy == pytest.approx(whole.train_accuracy, abs=0.005)

    def test_queries_are_cut_into_parts_that_fit(self, stored: Stored) -> None:
        material = split(stored, 5_000)
        head = KnnHead().fit(material.X_fit, material.y_fit)
        for queries in (material.X_val, stored._X["test"]):
            rows = np.concatenate([block for _, block in in_blocks(queries)])
            parts = [part.copy() for part in head._queries(queries, 7)]
            lengths = np.linalg.norm(rows, axis=1, keepdims=True)
            np.testing.assert_allclose(np.concatenate(parts), rows / lengths, rtol=1e-5)
            assert len(parts) > 1
            assert max(part.nbytes for part in parts) < 5_000 / 2
            similarities, found = KnnHead().fit(split(stored).X_fit, material.y_fit).neighbours(rows, 7)
            ours, named = head.neighbours(queries, 7)
            np.testing.assert_allclose(ours, similarities, atol=1e-6)
            assert (named == found).mean() > 0.99  # but for ties within rounding

    def test_as_many_queries_as_fit_share_a_pass(self, stored: Stored) -> None:
        for memory in (30_000, 100_000):
            X = StoredRows(stored, "train", LAYERS, memory)  # type: ignore[arg-type]
            head = KnnHead().fit(X, stored.labels())
            most = head.rows_per_pass()
            assert most is not None
            assert memory / 4 < most * (HELD * 4 * 8 + 12 * head.k) < memory
            for rows, passes in ((1, 1), (most, 1), (2 * most, 2)):
                before = X.passes
                head.predict_proba(np.resize(stored._X["test"], (rows, 8)))
                assert X.passes - before <= passes

    def test_of_equally_similar_rows_the_first_are_taken_whatever_the_memory(self, tmp_path: Path) -> None:
        """Rows of 1 and -1, whose products and lengths no order of summation rounds."""
        wide = Stored(tmp_path, rows=2_900, train=2_600, width=64)
        for rows in wide._X.values():
            rows[:] = np.where(rows > np.median(rows), 1, -1)
        train, test = wide._X["train"], wide._X["test"]
        train[100:2_500:50] = test[3]  # more than k, in several tiles
        exact = np.argsort(-(test @ train.T), axis=1, kind="stable")[:, :9]
        assert exact[3].tolist() == list(range(100, 550, 50))
        assert np.array_equal(KnnHead().fit(train, wide.labels()).neighbours(test, 9)[1], exact)
        for memory in (2_000_000, 5_000_000, 400_000_000):
            head = KnnHead().fit(StoredRows(wide, "train", LAYERS, memory), wide.labels())  # type: ignore[arg-type]
            assert np.array_equal(head.neighbours(test, 9)[1], exact)

    def test_similarities_are_the_same_bit_for_bit_whatever_the_memory(self, tmp_path: Path) -> None:
        wide = Stored(tmp_path, rows=2_900, train=2_600, width=72)
        found = []
        for memory in (2_000_000, 5_000_000, 400_000_000):
            head = KnnHead().fit(StoredRows(wide, "train", LAYERS, memory), wide.labels())  # type: ignore[arg-type]
            found.append(head.neighbours(wide._X["test"], 9))
        for similarities, rows in found[1:]:
            assert np.array_equal(similarities, found[0][0])
            assert np.array_equal(rows, found[0][1])

    def test_fitted_in_memory_it_predicts_rows_that_are_not(self, stored: Stored) -> None:
        material = split(stored, 30_000)
        head = KnnHead().fit(stored._X["train"][::9], material.y[::9])
        rows = np.concatenate([block for _, block in in_blocks(material.X_val)])
        np.testing.assert_allclose(head.proba_of(material.X_val), head.predict_proba(rows), atol=1e-6)

    def test_its_rows_stay_in_the_cache(self, stored: Stored) -> None:
        run = selection.train(split(stored, 30_000), "knn", 0)
        learned, arrays = saved.to_data(run.estimator)
        assert set(arrays) == {"classes_", "codes_"}
        assert learned["source_"] == {"dict": {"fingerprint": stored.fingerprint}}
        with pytest.raises(ValueError, match="its training images stay in their cache"):
            run.estimator.plain()
        again = saved.from_data(KnnHead(), learned, arrays)
        with pytest.raises(ValueError, match="stay in their cache, which this head was not given"):
            again.predict_proba(stored._X["test"])
        again.set_params(**run.chosen).attach(split(stored, 30_000).X)
        np.testing.assert_allclose(again.predict_proba(stored._X["test"]), run.test_proba, atol=1e-6)


class TestSomeRows:
    """As many as a point of a learning curve is fitted on."""

    def test_they_are_held_where_that_leaves_the_fit_what_it_needs(self, stored: Stored) -> None:
        material = split(stored, 30_000)
        for rows, beside, held in ((300, 0, True), (300, 5_000, False), (200, 5_000, True), (400, 0, False)):
            places = np.arange(1, 900, 2)[:rows]
            X = material.chosen(places, beside)
            assert isinstance(X, Held) is held
            assert isinstance(X, Blocks)
            assert not held or X.memory + X.shape[0] * 32 + 4 * X.step * 32 <= 30_000
            found = np.concatenate([block for _, block in in_blocks(X)])
            assert np.array_equal(found, stored._X["train"][material.fit_rows[places]])

    @pytest.mark.parametrize("head", ["prior", "centroid", "lda", "ridge", "logistic", "svm", "knn"])
    @pytest.mark.parametrize("rows", [24, 300])
    def test_heads_fit_them_as_in_memory(self, stored: Stored, head: str, rows: int) -> None:
        material, whole = split(stored, 31_000), split(stored)
        places = np.arange(1, 900, 900 // rows)[:rows]
        found = []
        for source in (whole, material):
            fitted = HEADS[head].make(0).fit(source.chosen(places), source.y_fit[places])
            found.append(fitted.proba_of(source.X_val))
        np.testing.assert_allclose(found[1], found[0], atol=2e-3)

    def test_what_is_no_number_is_refused(self, stored: Stored) -> None:
        material = split(stored, 30_000)
        stored._X["train"][material.fit_rows[5]] = np.nan
        with pytest.raises(UserError, match="contains NaN or infinite numbers"):
            material.chosen(np.arange(10))


class TestClassifiersOfScikitLearn:
    def test_naive_bayes_is_that_of_all_rows(self, stored: Stored) -> None:
        whole, parts = both(stored, "GaussianNB", memory=30_000)
        np.testing.assert_allclose(parts.test_proba, whole.test_proba, atol=1e-5)

    def test_what_has_epochs_has_a_pass_for_each(self, stored: Stored) -> None:
        whole, parts = both(stored, "SGDClassifier", {"loss": "log_loss", "scale": "standard"}, memory=30_000)
        assert abs(parts.val_accuracy - whole.val_accuracy) < 0.05
        (remark,) = (said for said in parts.warnings if "partial_fit" in said)
        assert int(remark.split(" in ")[1].split()[0]) > 5

    def test_what_partial_fit_refuses_is_told(self, stored: Stored) -> None:
        with pytest.raises(UserError, match="SGDClassifier: class_weight 'balanced' is not supported"):
            selection.train(split(stored, 30_000), "SGDClassifier", 0, {"class_weight": "balanced"})


def test_a_head_that_knows_no_blocks_is_refused_with_the_bytes_of_all_rows(stored: Stored) -> None:
    with pytest.raises(
        UserError,
        match=r"RandomForestClassifier needs at least .* \(1,000 images x 8 values x 4 bytes\).*memory=",
    ):
        selection.train(split(stored, MEMORY), "RandomForestClassifier", 0)
    assert "X train" not in stored.asked


def test_the_test_split_is_read_after_the_last_fit(stored: Stored) -> None:
    selection.train(split(stored, MEMORY), "ridge", 0)
    first = stored.asked.index("X test")
    assert set(stored.asked[first:]) == {"X test", "y test"}
