"""What `datasets.register` takes beside arrays: frames, torch's datasets and loaders, rows, files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

from tests.upweight import records
from tests.upweight.conftest import posted
from tests.upweight.local_server import Server, answer
from upweight import Client, errors
from upweight.client.intake import stream

X = np.random.default_rng(0).random((10, 3), dtype=np.float32)
Y = np.arange(10) % 3


class Pairs(Dataset[Any]):
    """A map-style dataset, as users write them: a tensor and a plain int."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, at: int) -> Any:
        if not 0 <= at < len(X):
            raise IndexError(at)
        return torch.tensor(X[at]), int(Y[at])


class Flowing(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from zip(X, Y, strict=True)


class Row(NamedTuple):
    x: Any
    y: Any


class Table:
    """What Hugging Face's datasets offer: columns for a slice."""

    column_names = ("x", "y")

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, rows: slice) -> Any:
        return {"x": X[rows].tolist(), "y": Y[rows].tolist()}


class Named(Table):
    """With a ClassLabel."""

    features: ClassVar[dict[str, Any]] = {"y": SimpleNamespace(names=["no", "yes", "perhaps"])}


def test_the_names_of_a_class_label_are_those_of_the_classes(
    server: Server, client: Client, blobs: dict[str, bytes]
) -> None:
    server.on("POST", "/v1/datasets", answer(202, records.dataset()))
    client.datasets.register("d", Named())
    assert posted(server)["class_names"] == ["no", "yes", "perhaps"]


def test_splits_are_refused_by_their_names(client: Client) -> None:
    with pytest.raises(errors.InvalidRequest, match=r"splits train, test, .*data\['train'\]"):
        client.datasets.register("d", {"train": Table(), "test": Table()})


class InOrder(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(10))


@pytest.fixture
def registered(server: Server, client: Client, blobs: dict[str, bytes]) -> Any:
    """Registers and gives back the columns that arrived, shards joined."""
    server.on("POST", "/v1/datasets", answer(202, records.dataset()))

    def register(*data: Any, **keywords: Any) -> dict[str, np.ndarray[Any, Any]]:
        client.datasets.register("d", *data, **keywords)
        shards = [load(blobs[digest]) for digest in posted(server)["blobs"]]
        return {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}

    return register


SOURCES = {
    "dataset": Pairs,
    "tensor dataset": lambda: TensorDataset(torch.tensor(X), torch.tensor(Y)),
    "subset": lambda: torch.utils.data.Subset(Pairs(), range(10)),
    "loader": lambda: DataLoader(Pairs(), batch_size=4),
    "loader without batches": lambda: DataLoader(Pairs(), batch_size=None),
    "loader with an order of its own": lambda: DataLoader(Pairs(), sampler=InOrder()),
    "iterable dataset": Flowing,
    "loader of an iterable dataset": lambda: DataLoader(Flowing(), batch_size=4),
    "rows as dicts": lambda: [{"x": x, "y": y} for x, y in zip(X, Y, strict=True)],
    "rows as tuples": lambda: list(zip(X, Y, strict=True)),
    "rows as named tuples": lambda: [Row(x, y) for x, y in zip(X, Y, strict=True)],
    "rows of a generator": lambda: (pair for pair in zip(X, Y, strict=True)),
    "a table": Table,
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
@pytest.mark.parametrize("shard", [1 << 20, 80])
def test_every_source_gives_the_same_rows_in_order(
    registered: Any, source: Any, shard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SHARD", shard)
    monkeypatch.setattr(stream, "PIECES", 3)
    columns = registered(source())
    np.testing.assert_allclose(columns["x"], X, rtol=1e-6)
    np.testing.assert_array_equal(columns["y"], Y)


def test_parts_of_rows_are_named_by_inputs_and_targets(server: Server, registered: Any) -> None:
    columns = registered([(x, -x, y) for x, y in zip(X, Y, strict=True)],
                         inputs=("left", "right"), targets="kind")  # fmt: skip
    np.testing.assert_array_equal(columns["right"], -X)
    assert posted(server)["inputs"] == ["left", "right"]
    assert posted(server)["targets"] == ["kind"]


def test_one_array_is_the_column_x(registered: Any) -> None:
    np.testing.assert_array_equal(registered(torch.tensor(X))["x"], X)


def test_a_streamed_source_is_never_in_memory_whole(
    registered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SHARD", 1 << 20)
    alive = 0
    most = 0

    class Counted(np.ndarray[Any, Any]):
        def __array_finalize__(self, source: Any) -> None:
            nonlocal alive, most
            alive += self.nbytes
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= self.nbytes

    def rows() -> Iterator[Any]:
        for _ in range(200):  # 20 MB
            yield np.zeros(100_000, np.uint8).view(Counted)

    assert registered(rows())["x"].shape == (200, 100_000)
    assert most < 6 << 20


class Augmented(Pairs):
    def __getitem__(self, at: int) -> Any:
        return torch.rand(3), int(Y[at])


class Shuffler(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng().permutation(10).tolist())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: DataLoader(Pairs(), shuffle=True), "shuffles.*number.*shuffle=False"),
        (lambda: DataLoader(Pairs(), sampler=WeightedRandomSampler([1.0] * 10, 10)), "shuffles"),
        (lambda: DataLoader(Pairs(), sampler=Shuffler()), "shuffles .Shuffler"),
        (lambda: DataLoader(Pairs(), batch_size=4, drop_last=True), "last 2 rows"),
        (Augmented, "row 0 differs.*'x'.*augmentation"),
        (lambda: [{"x": 1.0}, {"z": 1.0}], r"row 1 has the columns \['z'\]"),
        (lambda: [(X[0], 1), (X[0][:2], 1)], r"'x' has shape \(2,\) at row 1, and \(3,\) at row 0"),
        (lambda: [(1, 1), (1.5, 1)], "'x' has type F64 at row 1, and I64"),
        (lambda: [(1, 2, 3)], "3 parts.*name all of them"),
        (lambda: [("a", 1)], "'x' has type <U1"),
        (list, "no rows"),
        (lambda: 3, "int is no dataset; give arrays by name"),
    ],
)
def test_what_can_not_be_registered_says_why(client: Client, data: Any, words: str) -> None:
    with pytest.raises(errors.InvalidRequest, match=words):
        client.datasets.register("d", data())


def test_a_random_split_is_in_its_own_fixed_order(registered: Any) -> None:
    part, _ = random_split(Pairs(), [6, 4])
    np.testing.assert_allclose(registered(part)["x"], X[part.indices], rtol=1e-6)


FRAME = pd.DataFrame(
    {"length": [1.5, 2.5, 3.5], "legs": [4, 2, 0], "tame": [True, False, True],
     "kind": ["cat", "bird", "fish"], "weight": [3.0, 0.1, 0.2]}
)  # fmt: skip


def test_a_frames_features_are_one_matrix_with_their_names(server: Server, registered: Any) -> None:
    columns = registered(FRAME.drop(columns="kind"), targets="weight")
    np.testing.assert_array_equal(columns["x"], [[1.5, 4, 1], [2.5, 2, 0], [3.5, 0, 1]])
    np.testing.assert_array_equal(columns["weight"], [3.0, 0.1, 0.2])
    asked = posted(server)
    assert (asked["inputs"], asked["targets"]) == (["x"], ["weight"])
    assert asked["preview"] == {
        "kind": "table", "column": "x", "names": ["length", "legs", "tame"],
    }  # fmt: skip
    assert asked["features"] == {"x": ["length", "legs", "tame"]}


def test_a_frame_as_a_column_is_a_matrix_with_its_features_names(
    server: Server, registered: Any
) -> None:
    features = FRAME[["legs", "length"]]
    columns = registered(x=features, y=FRAME["weight"])
    np.testing.assert_array_equal(columns["x"], features.to_numpy())
    asked = posted(server)
    assert asked["features"] == {"x": ["legs", "length"]}
    assert asked["preview"]["names"] == ["legs", "length"]


def test_whole_numbers_of_a_frame_as_a_column_stay_whole(registered: Any) -> None:
    assert registered(tokens=FRAME[["legs"]], y=FRAME["weight"])["tokens"].dtype == np.int64


def test_frames_are_joined_by_the_names_of_their_columns(
    server: Server, client: Client, registered: Any
) -> None:
    parts = [
        FRAME[["length", "legs", "weight"]].head(2),
        FRAME[["weight", "legs", "length"]].tail(1),
    ]
    columns = registered(parts, targets="weight")
    np.testing.assert_array_equal(columns["x"], FRAME[["length", "legs"]].to_numpy())
    np.testing.assert_array_equal(columns["weight"], FRAME["weight"])
    with pytest.raises(
        errors.InvalidRequest,
        match=r"frame 1 are \['weight', 'legs'\], those of frame 0 \['length'",
    ):
        client.datasets.register("d", [parts[0], parts[1][["weight", "legs"]]], targets="weight")


def test_a_frames_list_of_targets_is_a_matrix(registered: Any) -> None:
    columns = registered(FRAME, inputs=["length"], targets=["weight"])
    assert (columns["x"].shape, columns["y"].shape) == ((3, 1), (3, 1))


def test_a_frames_words_become_class_numbers(server: Server, registered: Any) -> None:
    columns = registered(FRAME, targets="kind", class_names=["bird", "cat", "fish", "dog"])
    assert columns["kind"].tolist() == [1, 0, 2]
    assert posted(server)["class_names"] == ["bird", "cat", "fish", "dog"]


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["cat", "bird", "cat", "fish"]),
        np.array(["cat", "bird", "cat", "fish"], object),
        np.array([b"cat", b"bird", b"cat", b"fish"]),
        ["cat", "bird", "cat", "fish"],
        pd.Series(["cat", "bird", "cat", "fish"], dtype="category"),
    ],
)
def test_words_of_arrays_become_class_numbers(
    server: Server, client: Client, registered: Any, labels: Any
) -> None:
    names = ["bird", "cat", "fish"]
    columns = registered(x=np.eye(4), y=labels, class_names=names)
    assert columns["y"].tolist() == [1, 0, 1, 2]
    assert posted(server)["class_names"] == names
    asked = len(server.asked)
    with pytest.raises(
        errors.InvalidRequest, match=r"'y' holds words; give class_names=\['bird', 'cat', 'fish'\]"
    ):
        client.datasets.register("d", x=np.eye(4), y=labels)
    with pytest.raises(
        errors.InvalidRequest, match=r"'words' has type .*encode words first: as token"
    ):
        client.datasets.register("d", words=labels, y=np.arange(4))
    assert len(server.asked) == asked


def test_words_of_rows_become_class_numbers(registered: Any) -> None:
    rows = [{"x": X[0], "kind": "cat"}, {"kind": "bird", "x": X[1]}]
    columns = registered(rows, targets="kind", class_names=["bird", "cat"])
    assert columns["kind"].tolist() == [1, 0]
    np.testing.assert_array_equal(columns["x"], X[:2])


def test_categories_are_numbered_as_class_names_say(registered: Any) -> None:
    frame = FRAME.assign(kind=FRAME["kind"].astype("category"))
    columns = registered(frame, targets="kind", class_names=["fish", "cat", "bird"])
    assert columns["kind"].tolist() == [1, 2, 0]


def test_a_frames_categories_name_their_classes(server: Server, registered: Any) -> None:
    frame = FRAME.assign(kind=FRAME["kind"].astype("category"))
    assert registered(frame, targets="kind")["kind"].tolist() == [1, 0, 2]
    assert posted(server)["class_names"] == ["bird", "cat", "fish"]


@pytest.mark.parametrize(
    ("frame", "keywords", "words"),
    [
        (FRAME, {}, "which column is the target"),
        (FRAME, {"targets": "price"}, "no column 'price'.*'length'"),
        (FRAME, {"targets": "weight"}, "'kind' holds .*not numbers: name it in 'metadata'"),
        (FRAME, {"targets": "kind"}, "'kind' holds words.*class_names"),
        (FRAME.assign(legs=[1, None, 2]), {"targets": "weight"}, "'legs' has 1 missing"),
        (FRAME, {"targets": "weight", "x": X}, "given twice"),
        (None, {"x": FRAME[["kind"]], "y": Y}, "'kind' holds .*not numbers: name it in 'metadata'"),
        (None, {"x": FRAME[["legs"]].replace(2, np.nan), "y": Y}, "'legs' has 1 missing"),
    ],
)
def test_mistakes_in_frames_name_the_column(
    server: Server, client: Client, frame: Any, keywords: Any, words: str
) -> None:
    with pytest.raises(errors.InvalidRequest, match=words):
        client.datasets.register("d", frame, **keywords)
    assert server.asked == []


def test_npy_files_are_columns_by_their_names(registered: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    columns = registered([tmp_path / "x.npy", tmp_path / "y.npy"])
    np.testing.assert_array_equal(columns["x"], X)


def test_pickled_npy_files_are_refused(client: Client, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(errors.InvalidRequest, match=r"x\.npy is no array of numbers"):
        client.datasets.register("d", tmp_path / "x.npy")


def test_a_uri_is_registered_without_an_upload(server: Server, client: Client) -> None:
    server.on("POST", "/v1/datasets", answer(202, records.dataset()))
    client.datasets.register("d", uri="s3://bucket/rows", format="parquet", targets="y")
    assert posted(server)["uri"] == "s3://bucket/rows"
    assert len(server.asked) == 1
    with pytest.raises(errors.InvalidRequest, match="format= one of"):
        client.datasets.register("d", uri="s3://bucket/rows")
    with pytest.raises(errors.InvalidRequest, match="not both"):
        client.datasets.register("d", x=X, uri="s3://bucket/rows", format="parquet")
