"""Shards that lie about themselves: whatever the bytes, the check ends soon, in words, and in little memory."""

from __future__ import annotations

import io
import json
import struct
import time
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from service.storage.npz import BadArchive, NpzFile
from service.storage.objects import Objects
from service.storage.parquet import BadParquet, ParquetColumns
from service.storage.tensors import BadTensors, read_header
from upweight.schema import parse_rows

MIB = 1 << 20
MEMORY = 64 * MIB
SECONDS = 5.0
quick = settings(
    max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


def header(entries: dict[str, Any], data: bytes = b"") -> bytes:
    """A safetensors file that says this of itself."""
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(shape: list[int], end: int, dtype: str = "F32", start: int = 0) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


LYING_TENSORS = {
    "terabytes": header({"x": tensor([2**38], 2**40)}, bytes(16)),
    "more than 64 bits": header({"x": tensor([2**63, 2**63], 16)}, bytes(16)),
    "a negative shape": header({"x": tensor([-1, 4], 16)}, bytes(16)),
    "offsets before the data": header({"x": tensor([4], 16, start=-16)}, bytes(16)),
    "offsets that cross": header({"x": tensor([4], 0, start=16)}, bytes(16)),
    "a dtype of its own": header({"x": tensor([4], 16, dtype="PICKLE")}, bytes(16)),
    "a header of exabytes": struct.pack("<Q", 2**62) + b"{}",
    "a header that is no object": struct.pack("<Q", 4) + b"[[]]",
    "a header with NaN": struct.pack("<Q", 8) + b'{"x":NaN',
    "deep nesting": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "nothing": b"",
    "too short": b"\x01\x02",
}


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return Objects(str(tmp_path_factory.mktemp("objects")))


class Bounded:
    """Fails when what it surrounds takes too long or too much memory."""

    def __enter__(self) -> None:
        tracemalloc.start()
        self._began = time.process_time()  # of a busy machine no more than of an idle one

    def __exit__(self, *_: object) -> None:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < MEMORY
        assert time.process_time() - self._began < SECONDS


@pytest.mark.parametrize("name", LYING_TENSORS)
def test_a_safetensors_file_that_lies_is_refused(objects: Objects, name: str) -> None:
    path = f"lies/{abs(hash(name))}"
    objects.put(path, LYING_TENSORS[name])
    with Bounded(), pytest.raises(BadTensors):
        read_header(objects, path)


def npz(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def npy(shape: str = "(4,)", descr: str = "'<f4'", data: bytes = bytes(16)) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + data


def read_all(path: Path) -> None:
    """Every array of an archive, of those that a worker would take into memory."""
    file = NpzFile(path, most=MEMORY // 2)
    for column in file.entries:
        file.read(column)


LYING_ARCHIVES = {
    "terabytes": npz({"x.npy": npy("(1000000000000,)")}),
    "a bomb": npz({"x.npy": npy("(268435456,)", data=bytes(200 * MIB))}),
    "objects, which are pickles": npz({"x.npy": npy(descr="'|O'", data=b"cos\nsystem\n")}),
    "a structure with objects": npz({"x.npy": npy(descr="[('a', '|O')]")}),
    "code for a shape": npz({"x.npy": npy("__import__('os').getpid()")}),
    "a name that climbs": npz({"../../../../tmp/climbed.npy": npy(), "x.npy": b"no array"}),
    "no array": npz({"x.npy": b"no array at all"}),
    "nothing": b"",
    "no archive": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("name", LYING_ARCHIVES)
def test_an_npz_file_that_lies_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "shard"
    path.write_bytes(LYING_ARCHIVES[name])
    with Bounded(), pytest.raises(BadArchive):
        read_all(path)
    assert not Path("/tmp/climbed.npy").exists()


@quick
@given(data=st.data())
def test_changed_bytes_of_a_shard_are_read_or_refused(
    data: st.DataObject, tmp_path_factory: Any, objects: Objects
) -> None:
    arrays = {"x": np.arange(24, dtype="f4").reshape(6, 4), "ü": np.arange(6)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    for kind, whole in (("safetensors", save(arrays)), ("npz", buffer.getvalue())):
        content = bytearray(whole)
        for _ in range(data.draw(st.integers(1, 6))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        if kind == "safetensors":
            objects.put("fuzz/shard", bytes(content))
            with suppress(BadTensors):
                read_header(objects, "fuzz/shard")
        else:
            path = tmp_path_factory.mktemp("fuzz") / "shard"
            path.write_bytes(content)
            with suppress(BadArchive):
                read_all(path)


def parquet() -> bytes:
    table = pa.table({"x": pa.array([[1.0, 2.0], [3.0, 4.0]] * 8), "y": pa.array(range(16))})
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=8)
    return sink.getvalue()


def read_parquet(content: bytes) -> None:
    """Every block of every column, as the check of a dataset reads it."""
    columns = ParquetColumns(io.BytesIO(content))
    for name in ("x", "y"):
        with suppress(KeyError):
            for _ in columns.blocks(name, 0, columns.entry(name)):
                pass


@pytest.mark.filterwarnings("ignore")
@quick
@given(data=st.data())
def test_changed_bytes_of_a_parquet_file_are_read_or_refused(data: st.DataObject) -> None:
    content = bytearray(parquet())
    for _ in range(data.draw(st.integers(1, 4))):
        # Half of them in the footer, where all offsets and numbers of rows are.
        start = 0 if data.draw(st.booleans()) else len(content) // 2
        content[data.draw(st.integers(start, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(BadParquet):
        read_parquet(bytes(content))


@settings(max_examples=400, deadline=None, database=None)
@given(
    st.one_of(
        st.text(max_size=40),
        st.text(alphabet="0123456789:,- ²٣", max_size=40),
        st.sampled_from(["0:" + "9" * 4000, "-" * 100, "0:1," * 5000, "٣:٤", "1e9", "0x10"]),
    ),
    st.integers(0, 10**9),
)
def test_any_text_chooses_rows_that_there_are_or_is_refused(text: str, count: int) -> None:
    try:
        rows = parse_rows(text, count)
    except ValueError:
        return
    assert len(rows) <= count * (text.count(",") + 1)
    for position in {0, len(rows) // 2, len(rows) - 1} if len(rows) else ():
        assert 0 <= rows[position] < count
