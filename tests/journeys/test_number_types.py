"""Columns of every floating-point type, in every format: the same numbers, shown and computed with."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F

from tests.journeys.formulas import Formula
from upweight import Client, errors

ROWS = torch.from_numpy(np.random.default_rng(1).normal(size=(9, 3)))
LABELS = torch.arange(9) % 2
DAMPING = 0.3


def npz(dtype: str, order: Any = "C", write: Any = np.savez) -> bytes:
    buffer = io.BytesIO()
    x = np.asarray(ROWS.numpy(), dtype=dtype, order=order)
    write(buffer, x=x, y=LABELS.numpy().astype(">i4"))
    return buffer.getvalue()


def parquet(dtype: str, kind: pa.DataType) -> bytes:
    buffer = io.BytesIO()
    rows = pa.FixedSizeListArray.from_arrays(
        pa.array(ROWS.numpy().astype(dtype).reshape(-1), kind), 3
    )
    pq.write_table(pa.table({"x": rows, "y": LABELS.numpy()}), buffer)
    return buffer.getvalue()


def tensors(dtype: torch.dtype) -> bytes:
    return safetensors.torch.save({"x": ROWS.to(dtype), "y": LABELS})


# What is registered, and the type that its numbers have.
GIVEN: Mapping[str, tuple[Callable[[], Any], torch.dtype, Mapping[str, str]]] = {
    "bfloat16 tensor": (
        lambda: {"x": ROWS.bfloat16(), "y": LABELS}, torch.bfloat16, {}),
    "bfloat16 tensor, transposed": (
        lambda: {"x": ROWS.T.bfloat16().T, "y": LABELS}, torch.bfloat16, {}),
    "bfloat16 rows": (
        lambda: list(zip(ROWS.bfloat16(), LABELS, strict=True)), torch.bfloat16, {}),
    "bfloat16 file": (lambda: tensors(torch.bfloat16), torch.bfloat16, {"format": "safetensors"}),
    "float16 array": (
        lambda: {"x": ROWS.numpy().astype("f2"), "y": LABELS}, torch.float16, {}),
    "float16 file": (lambda: tensors(torch.float16), torch.float16, {"format": "safetensors"}),
    "float16 npz": (lambda: npz("f2"), torch.float16, {"format": "npz"}),
    "big-endian npz": (lambda: npz(">f8"), torch.float64, {"format": "npz"}),
    "big-endian npz in Fortran order": (
        lambda: npz(">f4", "F", np.savez_compressed), torch.float32, {"format": "npz"}),
    "half-float parquet": (
        lambda: parquet("f2", pa.float16()), torch.float16, {"format": "parquet"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def linear(online: Client) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        module = nn.Linear(3, 2).double()
    online.models.register("number-types", module, example=ROWS[:2], loss="cross_entropy")
    return module


@pytest.mark.parametrize("given", GIVEN)
def test_numbers_of_any_width_and_byte_order_are_taken_by_value(
    online: Client, linear: nn.Module, fresh_name: str, given: str
) -> None:
    make, dtype, how = GIVEN[given]
    data = online.datasets.register(fresh_name, make(), **how)
    values = ROWS.to(dtype).double()
    shown = online.datasets.rows(data, "1:9:2", "x")["x"]
    np.testing.assert_array_equal(shown.astype("f8"), values[1:9:2].numpy())
    result = online.compute_influences(
        "number-types", data, data, hessian_regularization=DAMPING, precision="float64"
    )
    formula = Formula(linear, F.cross_entropy, values, LABELS, DAMPING)
    wanted = formula.up(formula.factors(values, LABELS), values, LABELS)
    np.testing.assert_allclose(result.numpy(), wanted.numpy(), rtol=1e-9, atol=1e-12)


def test_shards_in_either_byte_order_are_one_dataset(online: Client, fresh_name: str) -> None:
    data = online.datasets.register(fresh_name, [npz("<f8"), npz(">f8")], format="npz")
    assert (data.rows, data.columns[0].dtype) == (18, "float64")
    shown = online.datasets.rows(data, "8:11", "x")["x"]
    np.testing.assert_array_equal(shown, torch.cat([ROWS, ROWS])[8:11].numpy())


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.full((9, 3), 2**63, "u8"), r"over 9223372036854775807 in row 0"),
        (
            ROWS.numpy().astype("c16"),
            r"complex128; numbers are needed: store real and imaginary parts",
        ),
        (np.full((9, 3), "word"), r"words are stored as class numbers"),
    ],
)
def test_what_is_no_number_of_a_model_is_refused_with_a_way_out(
    online: Client, fresh_name: str, x: Any, words: str
) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, x=x, y=LABELS.numpy())
    with pytest.raises(errors.Rejected, match=words):
        online.datasets.register(fresh_name, buffer.getvalue(), format="npz")
