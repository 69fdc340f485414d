"""Safetensors by range; no claim of a header is believed before the object's size allows it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from service.storage.objects import Objects
from service.storage.tensors import BadTensors, read_header, read_tensor, write_tensors

pytestmark = pytest.mark.both_storages


def test_written_tensors_are_read_by_the_format_s_own_library(objects: Objects) -> None:
    tensors = {"a": np.arange(12, dtype="f4").reshape(3, 4), "b": np.array([1, 2], "i8")}
    write_tensors(objects, "t", tensors)
    back = load(objects.get("t"))
    assert all(np.array_equal(back[name], array) for name, array in tensors.items())


def test_what_another_wrote_first_stays_and_its_digest_is_told(objects: Objects) -> None:
    first = write_tensors(objects, "t", {"x": np.zeros(3)})
    assert write_tensors(objects, "t", {"x": np.ones(3)}) == first == objects.digest("t")
    assert write_tensors(objects, "other", {"x": np.zeros(3)}) == first
    assert not read_tensor(objects, "t", "x").any()


def test_rows_are_read_by_range(objects: Objects) -> None:
    array = np.random.default_rng(0).normal(size=(10, 2, 3))
    write_tensors(objects, "t", {"x": array, "scalar": np.array(3.0)})
    assert np.array_equal(read_tensor(objects, "t", "x", 4, 7), array[4:7])
    assert np.array_equal(read_tensor(objects, "t", "x", 8, 100), array[8:])
    assert read_tensor(objects, "t", "x", 7, 3).shape == (0, 2, 3)
    assert read_tensor(objects, "t", "scalar") == 3.0


def _file(header: Any, data: bytes = b"\0" * 8) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"123",
        (10**15).to_bytes(8, "little") + b"{}",
        _file(b"not json"),
        _file(b"[" * 100_000),
        _file([1]),
        _file({"x": 3}),
        _file({"x": {"dtype": "F32", "shape": [2]}}),
        _file({"x": {"dtype": "OBJ", "shape": [2], "data_offsets": [0, 8]}}),
        _file({"x": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}),
        _file({"x": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}),
        _file({"x": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}}),
        _file({"x": {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]}}),
        _file({"x": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}),
        _file({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}),
    ],
)
def test_a_header_that_lies_is_refused(objects: Objects, content: bytes) -> None:
    objects.put("t", content)
    with pytest.raises(BadTensors):
        read_header(objects, "t")
