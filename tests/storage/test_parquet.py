"""Parquet as arrays: numbers and lists of one length; the rest is refused with the way out, and no code runs."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.storage.parquet import BadParquet, ParquetColumns

RANDOM = np.random.default_rng(0)
PICTURES = RANDOM.normal(size=(11, 2, 3)).astype("f4")


def opened(column: pa.Array, **options: Any) -> ParquetColumns:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"x": column}), buffer, **{"row_group_size": 4, **options})
    buffer.seek(0)
    return ParquetColumns(buffer)


def read(file: ParquetColumns, row: int = 0) -> np.ndarray[Any, Any]:
    entry = file.entry("x")
    blocks = list(file.blocks("x", row, entry))
    assert blocks[0][0] == file.group_start(row)
    found = np.concatenate([block for _, block in blocks])
    assert found.dtype == entry.dtype
    assert len(found) == entry.shape[0] - file.group_start(row)
    return found


@pytest.mark.parametrize(
    "dtype", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]
)
def test_numbers_keep_their_dtype_and_values(dtype: str) -> None:
    values = np.arange(11).astype(dtype)
    found = read(opened(pa.array(values)))
    assert found.dtype == values.dtype
    assert np.array_equal(found, values)


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.list_(pa.float32())),
        pa.large_list(pa.list_(pa.float32(), 3)),
        pa.list_(pa.list_(pa.float32(), 3), 2),
    ],
    ids=str,
)
def test_nested_lists_of_one_length_are_arrays(kind: pa.DataType) -> None:
    file = opened(pa.array(PICTURES.tolist(), kind))
    assert file.entry("x").shape == (11, 2, 3)
    assert np.array_equal(read(file), PICTURES)
    assert np.array_equal(read(file, 9), PICTURES[8:])


def test_fixed_shape_tensors_are_arrays() -> None:
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(PICTURES)
    assert np.array_equal(read(opened(column)), PICTURES)


def test_a_column_of_a_file_with_others_is_read_alone() -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"name": ["a", "b"], "x.y": [1, 2], "x": [3, 4]}), buffer)
    assert read(ParquetColumns(buffer)).tolist() == [3, 4]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_text_is_read_as_its_bytes(kind: pa.DataType) -> None:
    found = read(opened(pa.array(["web", "", "Straße"]).cast(kind)))
    assert [each.decode() for each in found.tolist()] == ["web", "", "Straße"]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array([b"a"]), "holds bytes; store pictures"),
        (pa.array([1, 2]).cast(pa.decimal128(30, 2)), "cast it to float64"),
        (pa.array([1, 2]).cast(pa.timestamp("s")), "cast it to a number"),
        (pa.array(["a", None]), "no value in row 1"),
        (pa.array(["a" * 5000]), "has a text of 5000 bytes"),
        (pa.array([{"a": 1}]), "store its fields as columns"),
        (pa.array([[["a"]]]), "is text"),
        (pa.array([1.0, 2.0, None]), "no value in row 2"),
        (pa.array([[1.0], [2.0], None]), "no value in row 2"),
        (pa.array([[1.0, 2.0], [3.0, None]]), "no value in row 1"),
        (pa.array([[1.0, 2.0]] * 6 + [[3.0]]), "a list of 1 in row 6, where the first row has 2"),
        (pa.array([[[1.0], [2.0]], [[3.0], [4.0, 5.0]]]), "a list of 2 in row 1"),
        (pa.array([None, None]), "type null|no value"),
    ],
)
def test_what_is_no_array_is_refused_with_the_way_out(column: pa.Array, words: str) -> None:
    file = opened(column)
    with pytest.raises(BadParquet, match=words):
        read(file)


def test_a_column_that_is_not_there_is_not_found() -> None:
    with pytest.raises(KeyError):
        opened(pa.array([1])).entry("y")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 10, b"x" * 1000])
def test_what_is_no_parquet_is_refused(content: bytes) -> None:
    with pytest.raises(BadParquet):
        ParquetColumns(io.BytesIO(content))


def test_a_damaged_page_is_refused() -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"x": RANDOM.normal(size=10_000)}), buffer, write_page_checksum=True)
    data = bytearray(buffer.getvalue())
    data[1000:1200] = bytes(200)
    file = ParquetColumns(io.BytesIO(bytes(data)))
    with pytest.raises(BadParquet, match="damaged"):
        read(file)


def test_an_extension_type_s_code_is_never_run() -> None:
    ran: list[int] = []

    class Trap(pa.ExtensionType):
        def __init__(self) -> None:
            super().__init__(pa.int64(), "upweight.trap")

        def __arrow_ext_serialize__(self) -> bytes:
            return b"x"

        @classmethod
        def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> Trap:
            ran.append(1)
            return cls()

    column = pa.ExtensionArray.from_storage(Trap(), pa.array([1, 2]))
    assert read(opened(column)).tolist() == [1, 2]
    assert ran == []
