"""A fitted scikit-learn object is kept as nodes of listed types, and nothing else is read."""

from __future__ import annotations

import functools
import io
import json
import os
import warnings
from copy import copy
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import skops.io
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.utils import all_estimators

from models.heads import objects
from models.heads.registry import LEFT_OUT, head

NAMES = [name for name, _ in all_estimators("classifier") if name not in LEFT_OUT]
SETTINGS: dict[str, list[dict[str, Any]]] = {  # what leads to objects of other types than the defaults do
    "BernoulliNB": [{"fit_prior": False}],
    "CalibratedClassifierCV": [{"method": "isotonic"}, {"method": "temperature"}],
    "ExtraTreesClassifier": [{"criterion": "entropy", "class_weight": "balanced"}],
    "GradientBoostingClassifier": [{"n_iter_no_change": 2}],
    "HistGradientBoostingClassifier": [{"class_weight": "balanced"}],
    "KNeighborsClassifier": [
        {"metric": "cosine", "weights": "distance"},
        {"algorithm": "brute"},
        {"algorithm": "ball_tree"},
        {"metric": "manhattan", "algorithm": "kd_tree"},
    ],
    "LabelSpreading": [{"kernel": "knn"}],
    "LinearDiscriminantAnalysis": [{"solver": "lsqr", "shrinkage": "auto"}],
    "LinearSVC": [{"class_weight": "balanced"}],
    "LogisticRegression": [{"class_weight": "balanced"}, {"solver": "saga"}],
    "MLPClassifier": [{"solver": "sgd"}, {"solver": "lbfgs"}, {"early_stopping": True}],
    "NearestCentroid": [{"metric": "manhattan"}],
    "SGDClassifier": [
        *({"loss": loss} for loss in ("log_loss", "modified_huber", "squared_hinge", "perceptron", "huber")),
        {"early_stopping": True, "average": True},
    ],
    "SVC": [{"kernel": "linear"}, {"class_weight": "balanced"}],
}
CASES = [
    (name, settings, scale)
    for name in NAMES
    for settings in [{}, *SETTINGS.get(name, [])]
    for scale in (None, "standard")
]


@functools.cache
def blobs(classes: int = 3) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Non-negative, as embeddings are; classes of unequal size."""
    rng = np.random.default_rng(0)
    y = np.sort(np.arange(120) * np.arange(120) % classes)
    y = np.arange(120) % classes
    return (rng.gamma(2, 1, (classes, 6))[y] + rng.gamma(1, 0.2, (120, 6))).astype(np.float32), y


@functools.cache
def fitted(name: str, settings: str = "{}", scale: str | None = None, classes: int = 3) -> Any:
    entry = head(name, {**json.loads(settings), **({"scale": scale} if scale else {})})
    if scale and name in ("ComplementNB", "MultinomialNB"):
        pytest.skip("takes no negative values, which standardised ones are")
    return entry.make(0).fit(*blobs(classes))


@pytest.mark.parametrize(("name", "settings", "scale"), CASES)
def test_every_classifier_comes_back_as_it_was(
    name: str, settings: dict[str, Any], scale: str | None, tmp_path: Path
) -> None:
    estimator = fitted(name, json.dumps(settings), scale)
    objects.write(estimator.fitted_, tmp_path / "head.skops")
    again = type(estimator).of_fitted(objects.read(tmp_path / "head.skops"), 120)
    X, _ = blobs()
    assert np.array_equal(again.predict_proba(X), estimator.predict_proba(X))
    assert np.array_equal(again.classes_, estimator.classes_)


def test_the_list_is_what_these_classifiers_need_and_no_more(tmp_path: Path) -> None:
    """With HEADROOM_WRITE=1 the list is written anew: look at what has changed before you commit it."""
    needed = set()
    for name, settings, scale in CASES:
        for classes in (2, 3):
            if scale and name in ("ComplementNB", "MultinomialNB"):
                continue
            skops.io.dump(fitted(name, json.dumps(settings), scale, classes).fitted_, tmp_path / "head.skops")
            needed.update(objects.nodes(tmp_path / "head.skops"))
    if os.environ.get("HEADROOM_WRITE"):
        path = Path(objects.__file__).with_name(objects.LIST)
        path.write_text("\n".join(sorted(needed)) + "\n")
    assert sorted(needed) == sorted(objects.allowed())


@pytest.mark.parametrize(
    "node", ["FunctionNode", "MethodNode", "PartialNode", "OperatorFuncNode", "ConstructorFromReduceNode"]
)
def test_no_kind_of_node_that_calls_what_a_file_names_is_listed(node: str) -> None:
    assert not [name for name in objects.allowed() if name.startswith(node)]


class Opens(BaseEstimator):
    """What a stranger's file could hold: a class of his own."""


def file_with(change: Any, path: Path, compression: int = 0) -> Path:
    """A file of a fitted classifier whose tree was changed by hand."""
    skops.io.dump(fitted("LogisticRegression").fitted_, path.with_suffix(".whole"))
    with ZipFile(path.with_suffix(".whole")) as whole, ZipFile(path, "w", compression) as changed:
        for member in whole.namelist():
            content = whole.read(member)
            if member == objects.SCHEMA:
                tree = json.loads(content)
                content = json.dumps(change(tree) or tree).encode()
            changed.writestr(member, content)
    return path


def node(loader: str, module: str, name: str, **more: Any) -> dict[str, Any]:
    return {"__loader__": loader, "__module__": module, "__class__": name, **more}


RUNS = node("FunctionNode", "numpy.testing._private.utils", "runstring")
EMPTY = node(
    "DictNode", "builtins", "dict", content={}, key_types=node("ListNode", "builtins", "list", content=[])
)


@pytest.mark.parametrize(
    "strange",
    [
        RUNS,
        node("TypeNode", "subprocess", "Popen"),
        node("FunctionNode", "os", "system"),
        node("ObjectNode", "tests.models.heads.test_objects", "Opens"),
        node("ObjectNode", "numpy.testing", "rundocs"),
        node("ConstructorFromReduceNode", "pathlib", "Path", content=EMPTY),
        node("OperatorFuncNode", "operator", "methodcaller", attrs=EMPTY),
        node("MethodNode", "builtins", "dict", content={"func": "clear", "obj": EMPTY}),
        node(
            "PartialNode",
            "functools",
            "partial",
            content={"func": RUNS, "args": EMPTY, "kwds": EMPTY, "namespace": EMPTY},
        ),
        node("ObjectNode", "sklearn.pipeline", "FeatureUnion", content=EMPTY),
    ],
    ids=lambda strange: f"{strange['__module__']}.{strange['__class__']}",
)
def test_a_file_that_names_anything_else_is_refused_before_it_is_made(
    strange: dict[str, Any], tmp_path: Path
) -> None:
    def put(tree: dict[str, Any]) -> None:
        tree["content"]["content"]["coef_"] = strange

    path = file_with(put, tmp_path / "head.skops")
    with pytest.raises(objects.Untrusted, match="not on the list of trusted types") as told:
        objects.read(path)
    assert "\n" not in str(told.value)


def test_a_bit_generator_of_another_name_is_refused(tmp_path: Path) -> None:
    """Its name is text within a node that is listed."""
    skops.io.dump(fitted("MLPClassifier").fitted_, tmp_path / "mlp.skops")
    generator = node(
        "RandomGeneratorNode",
        "numpy.random._generator",
        "Generator",
        content={
            "bit_generator": {
                **EMPTY,
                "content": {"bit_generator": node("JsonNode", "builtins", "str", content='"seed"')},
            },
            "seed_seq": EMPTY,
        },
    )

    def put(tree: dict[str, Any]) -> None:
        tree["content"]["content"]["coef_"] = generator

    with pytest.raises(objects.Untrusted, match=r"numpy\.random\.seed"):
        objects.read(file_with(put, tmp_path / "head.skops"))


def test_an_older_protocol_is_refused(tmp_path: Path) -> None:
    """skops reads the nodes of older ones by other code."""

    def put(tree: dict[str, Any]) -> None:
        tree["protocol"] = 0

    with pytest.raises(objects.Untrusted, match="protocol:0"):
        objects.read(file_with(put, tmp_path / "head.skops"))


def test_what_grows_as_it_is_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(objects.Untrusted, match="compressed"):
        objects.read(file_with(lambda tree: None, tmp_path / "head.skops", ZIP_DEFLATED))


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", b"[" * 100_000],
)
def test_what_is_no_such_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "head.skops"
    path.write_bytes(content)
    with pytest.raises(objects.Untrusted, match="not a skops file"):
        objects.read(path)


@pytest.mark.parametrize(
    "schema",
    [b"[" * 100_000, b"null", b"{}", b"\xff", b'{"protocol": []}', b'{"protocol": 2, "__loader__": {}}'],
)
def test_a_tree_that_is_none_is_refused(schema: bytes, tmp_path: Path) -> None:
    with ZipFile(tmp_path / "head.skops", "w") as archive:
        archive.writestr(objects.SCHEMA, schema)
    with pytest.raises(objects.Untrusted):
        objects.read(tmp_path / "head.skops")


def test_a_tree_that_is_nested_too_deep_is_refused(tmp_path: Path) -> None:
    def put(tree: dict[str, Any]) -> None:
        for _ in range(objects.DEEPEST):
            tree["content"] = {"content": tree["content"]}

    with pytest.raises(objects.Untrusted, match=r"schema\.json is nested more than 200 deep"):
        objects.read(file_with(put, tmp_path / "head.skops"))


def test_a_tree_without_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "LARGEST_SCHEMA", 100)
    with pytest.raises(objects.Untrusted, match=r"schema\.json is larger than 100 bytes"):
        objects.read(file_with(lambda tree: None, tmp_path / "head.skops"))


def test_parts_that_overlap_are_refused(tmp_path: Path) -> None:
    """Else a thousand names of one array take a thousand times its memory."""
    path = file_with(lambda tree: None, tmp_path / "head.skops")
    with ZipFile(path, "a") as archive:
        archive.writestr("more", b"1")  # so that the directory is written anew
        for name in ("again", "and again"):
            largest = copy(max(archive.filelist, key=lambda member: member.file_size))
            largest.filename = name
            archive.filelist.append(largest)
    with pytest.raises(objects.Untrusted, match="its parts overlap"):
        objects.read(path)


def test_a_part_of_the_file_is_as_large_as_it_says(tmp_path: Path) -> None:
    path = file_with(lambda tree: None, tmp_path / "head.skops")
    content = path.read_bytes()
    place = content.index(b"PK\x01\x02") + 24  # the uncompressed size: APPNOTE.TXT, 4.3.12
    path.write_bytes(content[:place] + b"\xff\xff\xff\x7f" + content[place + 4 :])
    with pytest.raises(objects.Untrusted, match="is not as large as declared"):
        objects.read(path)


def test_an_array_that_says_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.skops"
    objects.write(LogisticRegression().fit(*blobs()), path)
    with ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in parts if name.endswith(".npy"))
    header = io.BytesIO()
    write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**11,)})
    parts[name] = header.getvalue()
    with ZipFile(path, "w") as archive:
        for member, content in parts.items():
            archive.writestr(member, content)
    with pytest.raises(objects.Untrusted, match="an array declares 800,000,000,000 bytes"):
        objects.read(path)


def test_an_object_that_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(objects.Untrusted, match="Opens"):
        objects.write(LogisticRegression(C=Opens()), tmp_path / "head.skops")


def test_scikit_learn_warns_of_nothing_here() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head("LogisticRegression").make(0).fit(*blobs())
