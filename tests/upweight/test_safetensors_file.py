"""Our writer against the real reader."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from safetensors.torch import load as load_torch

from upweight.errors import InvalidRequest
from upweight.files.safetensors_file import NAMES, SafetensorsFile, tensor_of


def written(**arrays: Any) -> bytes:
    file = SafetensorsFile({name: tensor_of(name, value) for name, value in arrays.items()})
    content = b"".join(file.chunks())
    assert len(content) == file.size
    return content


@pytest.mark.parametrize("dtype", sorted(NAMES))
def test_every_type_is_read_back_the_same(dtype: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    back = load(written(x=array))["x"]
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_several_tensors_are_the_bytes_that_the_package_writes() -> None:
    arrays = {
        "y": np.arange(5),
        "x": np.ones((5, 3), np.float32),
        "mask": np.array([True, False, True, True, False]),
        "größe": np.zeros(1, np.float16),
    }
    assert load(written(**arrays)).keys() == arrays.keys()
    plain = {name: arrays[name] for name in ("x", "y", "mask")}
    assert written(**plain) == save(plain)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(3_000_000, dtype=np.float32).reshape(1000, 3000),
        np.arange(12.0).reshape(3, 4).T,
        np.arange(100)[::-3],
        np.arange(6, dtype=">i4"),
        np.float64(3.5),
        np.empty((0, 4), np.float32),
        np.empty((4, 0), np.float32),
    ],
    ids=["large", "transposed", "strided", "big-endian", "scalar", "no-rows", "no-columns"],
)
def test_any_layout_is_read_back_the_same(array: Any) -> None:
    back = load(written(x=array))["x"]
    assert back.shape == np.shape(array)
    np.testing.assert_array_equal(back, array)


def test_torch_tensors_and_lists_are_taken_as_they_are() -> None:
    needs_gradient = torch.randn(3, 2, requires_grad=True)
    back = load(written(x=needs_gradient, y=[1, 2, 3]))
    np.testing.assert_array_equal(back["x"], needs_gradient.detach().numpy())
    np.testing.assert_array_equal(back["y"], [1, 2, 3])


def test_bfloat16_stays_bfloat16() -> None:
    tensor = torch.randn(4, 3, dtype=torch.bfloat16).T
    assert torch.equal(load_torch(written(x=tensor))["x"], tensor)


@pytest.mark.parametrize("value", [np.array(["a", "b"]), [object()], [[1, 2], [3]], np.array([1j])])
def test_what_is_no_number_is_refused_by_its_column(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="'words'"):
        written(words=value)


def test_a_large_array_is_not_copied_whole() -> None:
    array = np.zeros((64, 1 << 17), np.float64)
    sizes = [len(chunk) for chunk in SafetensorsFile({"x": tensor_of("x", array)}).chunks()]
    assert max(sizes) <= 1 << 20


def test_lists_of_different_lengths_are_told_by_their_rows() -> None:
    with pytest.raises(InvalidRequest, match="row 0 has 2, row 2 has 1; pad them"):
        tensor_of("x", [[1, 2], [3, 4], [5]])
