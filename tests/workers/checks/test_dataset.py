"""The check of a dataset: what it reads off good shards, and how it says what is wrong with bad ones."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save

from service.datasets.sources import blob_sources
from service.lifecycle.states import now
from service.storage.layout import blob_path
from service.storage.objects import Objects
from upweight.errors import Rejected
from upweight.schema import DatasetRecord
from workers.checks.dataset import DatasetReport, check_dataset
from workers.datasets.reader import DatasetReader, load_columns

X = np.random.default_rng(0).normal(size=(7, 4)).astype("f4")
Y = np.arange(7) % 3


class Shop:
    """Datasets over a folder, without the service."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects = Objects(str(folder / "objects"))

    def blob(self, data: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.objects.put(blob_path("ns", digest), data)
        return digest

    def record(self, *shards: bytes, format: str = "safetensors", **fields: Any) -> DatasetRecord:
        blobs = [self.blob(shard) for shard in shards]
        given = {"inputs": ["x"], "targets": ["y"], **fields}
        return DatasetRecord(
            id="dst_x",
            name="d",
            version=1,
            state="checking",
            created_at=now(),
            format=format,
            blobs=blobs,
            digest="",
            size_bytes=0,
            **given,
        )

    def check(self, record: DatasetRecord, row_limit: int = 10**6) -> DatasetReport:
        sources = blob_sources(self.objects, "ns", record.blobs or ())
        return check_dataset(record, sources, None, row_limit, lambda done, total: None)

    def load(self, record: DatasetRecord) -> dict[str, torch.Tensor]:
        report = self.check(record)
        checked = record.model_copy(
            update={"rows": report.rows, "shard_rows": report.shard_rows, "columns": report.columns}
        )
        sources = blob_sources(self.objects, "ns", record.blobs or ())
        return load_columns(DatasetReader(checked, sources, None), torch.device("cpu"))


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def parquet(**arrays: Any) -> bytes:
    """Rows as lists, in row groups of three."""
    buffer = io.BytesIO()
    table = pa.table(
        {name: pa.array(array.tolist(), type=KINDS[name]) for name, array in arrays.items()}
    )
    pq.write_table(table, buffer, row_group_size=3)
    return buffer.getvalue()


def compressed(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


KINDS = {"x": pa.list_(pa.float32()), "y": pa.int64()}
WRITERS: dict[str, Callable[..., bytes]] = {
    "safetensors": lambda **arrays: save(arrays),
    "npz": npz,
    "npz, compressed": compressed,
    "npz, Fortran order": lambda x, y: npz(x=np.asfortranarray(x), y=y),
    "npz, compressed, Fortran order": lambda x, y: compressed(x=np.asfortranarray(x), y=y),
    "parquet": parquet,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_shards_are_counted_described_and_loaded_in_order(shop: Shop, writer: str) -> None:
    write, format = WRITERS[writer], writer.partition(",")[0]
    record = shop.record(write(x=X[:4], y=Y[:4]), write(x=X[4:], y=Y[4:]), format=format)
    report = shop.check(record)
    assert report.shard_rows == [4, 3]
    assert [(column.name, column.dtype, column.shape) for column in report.columns] == [
        ("x", "float32", [4]),
        ("y", "int64", []),
    ]
    assert (report.columns[1].minimum, report.columns[1].maximum) == (0, 2)
    columns = shop.load(record)
    assert np.array_equal(columns["x"].numpy(), X)
    assert np.array_equal(columns["y"].numpy(), Y)


def test_big_endian_and_unsigned_columns_keep_their_values(shop: Shop) -> None:
    columns = shop.load(shop.record(npz(x=X.astype(">f8"), y=Y.astype("u2")), format="npz"))
    assert np.array_equal(columns["x"].numpy(), X.astype("f8"))
    assert np.array_equal(columns["y"].numpy(), Y)


def bad(**arrays: Any) -> bytes:
    return save({"x": X, "y": Y, **arrays})


@pytest.mark.parametrize(
    ("shard", "pointer", "words"),
    [
        (bad(y=Y[:5]), "/blobs/0", "'x' has 7, 'y' has 5"),
        (save({"x": X}), "/targets/0", "there is no column 'y'"),
        (bad(x=np.where(np.arange(28).reshape(7, 4) == 13, np.nan, X)), "/inputs/0", "row 3"),
        (bad(x=np.where(np.arange(28).reshape(7, 4) == 27, np.inf, X)), "/inputs/0", "row 6"),
        (save({"x": X[:0], "y": Y[:0]}), "/blobs", "no rows"),
        (bad(x=np.array(1.0)), "/inputs/0", "first axis must be the row"),
        (bad()[:-5], "/blobs/0", "which are not there"),
        (b"\x80\x04pickle", "/blobs/0", "can't be read as safetensors"),
        (npz(x=X, y=Y), "/blobs/0", "can't be read as safetensors"),
    ],
)
def test_a_bad_shard_is_rejected_with_the_field_and_what_is_wrong(
    shop: Shop, shard: bytes, pointer: str, words: str
) -> None:
    with pytest.raises(Rejected, match=words) as caught:
        shop.check(shop.record(shard))
    assert caught.value.errors[0].pointer == pointer


def test_shards_that_do_not_fit_together_are_rejected(shop: Shop) -> None:
    with pytest.raises(Rejected, match=r"\[3\] a row here, but float32 \[4\]") as caught:
        shop.check(shop.record(bad(), bad(x=X[:, :3].copy())))
    assert caught.value.errors[0].pointer == "/blobs/1"


@pytest.mark.parametrize(
    ("preview", "pointer", "words"),
    [
        ({"kind": "image", "column": "x", "shape": [3, 2]}, "shape", r"shape \(4,\); give"),
        ({"kind": "image", "column": "x"}, "shape", "give .height, width."),
        ({"kind": "image", "column": "y", "shape": [1, 2]}, "shape", r"shape \(\); give"),
        ({"kind": "text", "column": "x"}, "kind", "'x' is float32, and the tokens"),
        ({"kind": "table", "column": "x", "names": list("abcde")}, "names", "'x' has 4 numbers"),
        ({"kind": "table", "column": "y", "names": ["a", "b"]}, "names", "'y' has 1 number;"),
    ],
)
def test_a_preview_that_the_columns_do_not_fit_is_rejected_before_the_rows_are_read(
    shop: Shop, preview: Any, pointer: str, words: str
) -> None:
    nan = bad(x=np.full((7, 4), np.nan, "f4"))
    with pytest.raises(Rejected, match=words) as caught:
        shop.check(shop.record(nan, preview=preview))
    assert caught.value.errors[0].pointer == f"/preview/{pointer}"


@pytest.mark.parametrize(
    "preview",
    [
        {"kind": "image", "column": "x", "shape": [2, 2]},
        {"kind": "image", "column": "x", "shape": [1, 4, 1]},
        {"kind": "text", "column": "y"},
        {"kind": "table", "column": "y"},
        {"kind": "table", "column": "x", "names": list("abcd")},
        {"kind": "table", "column": "x", "names": list("ab")},
    ],
)
def test_a_preview_that_fits_is_taken(shop: Shop, preview: Any) -> None:
    assert shop.check(shop.record(bad(), preview=preview)).rows == 7


def test_names_of_features_are_counted_before_the_rows_are_read(shop: Shop) -> None:
    nan = bad(x=np.full((7, 4), np.nan, "f4"))
    with pytest.raises(Rejected, match="3 names of features") as caught:
        shop.check(shop.record(nan, features={"x": list("abc")}))
    assert caught.value.errors[0].pointer == "/features"


def test_labels_without_a_name_are_rejected_but_for_one_that_a_loss_may_ignore(shop: Shop) -> None:
    for labels, names in [
        ([0, 1, 255, 255, -100], ["a", "b"]),
        ([0, 1, 2, 2], ["a", "b"]),
        ([0, 1, 2, 9], []),
    ]:
        shop.check(
            shop.record(save({"x": X[: len(labels)], "y": np.array(labels)}), class_names=names)
        )
    first = save({"x": X[:3], "y": np.array([0, 255, 1])})
    later = save({"x": X[:3], "y": np.array([255, 1, 3])})
    with pytest.raises(
        Rejected, match=r"has the label 3 in row 5, and there are names .* 0 to 1"
    ) as told:
        shop.check(shop.record(first, later, class_names=["a", "b"]))
    assert told.value.errors[0].pointer == "/class_names"
    weighed = save({"x": X[:3], "y": np.array([0, 3, 2]), "w": np.ones(3)})
    with pytest.raises(Rejected, match="has the label 2 in row 2"):
        shop.check(shop.record(weighed, targets=["y", "w"], class_names=["a"]))


def test_text_columns_are_rejected(shop: Shop) -> None:
    with pytest.raises(Rejected, match="numbers are needed"):
        shop.check(shop.record(npz(x=X, y=np.array(list("abcdefg"))), format="npz"))


def test_more_rows_than_the_limit_are_rejected(shop: Shop) -> None:
    with pytest.raises(Rejected, match="7 rows; the limit is 6"):
        shop.check(shop.record(bad()), row_limit=6)


def test_a_blob_that_has_gone_is_said_so(shop: Shop) -> None:
    record = shop.record(bad())
    shop.objects.delete_prefix("blobs")
    with pytest.raises(Rejected, match="upload it again"):
        shop.check(record)


def test_what_float32_takes_from_a_float64_column_is_found_feature_by_feature(
    shop: Shop,
) -> None:
    seconds = 1.7e9 + np.linspace(0, 3600, 7)
    x = np.stack([np.linspace(-1, 1, 7), seconds, np.full(7, 1e9 + 0.1)], 1)
    shards = [save({"x": each, "y": Y[: len(each)]}) for each in (x[:3], x[3:])]
    report = shop.check(shop.record(*shards))
    worst = np.abs(seconds - seconds.astype("f4")).max() / np.ptp(seconds)
    assert report.columns[0].float32_loss == pytest.approx(worst)
    assert report.columns[1].float32_loss is None
