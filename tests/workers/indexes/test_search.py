"""The search among an index's numbers, held against the whole product in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from service.storage.arrays import NewMatrix
from service.storage.chunks import Chunks
from service.storage.objects import Objects
from upweight.errors import InternalError
from workers.engine import compressed
from workers.indexes import search
from workers.indexes.search import Searched
from workers.jobs import indexing

ROWS, WIDTH, COUNT = 500, 40, 6


@pytest.fixture
def numbers() -> Tensor:
    """(n, width) whose first numbers are the largest, and rows of very different size."""
    generator = torch.Generator().manual_seed(3)
    spread = torch.logspace(0, -2, WIDTH, dtype=torch.float64)
    sizes = torch.logspace(-12, 4, ROWS, dtype=torch.float64)[:, None]
    return torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64) * spread * sizes


def searched(
    numbers: Tensor, folder: Path, leading: int, dtype: torch.dtype = torch.float16
) -> Searched:
    """As a worker copies it from the storage, which has it in several objects."""
    half, factors = compressed(numbers, dtype)
    objects = Objects(str(folder / "objects"))
    matrix = NewMatrix(
        "numbers", tuple(half.shape), (128, WIDTH), str(dtype).removeprefix("torch.")
    )
    matrix.describe(objects)
    for number, block in enumerate(half.split(128)):
        matrix.write(objects, number, 0, block.numpy())
    return Searched.copied(Chunks.open(objects, "numbers"), factors, torch.arange(leading), folder)


def queries(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(count, WIDTH, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float16, torch.int8])
def test_numbers_are_stored_within_half_a_unit(numbers: Tensor, dtype: torch.dtype) -> None:
    """Of the last place: of int8 1/254 of a row's largest number."""
    numbers[7], numbers[8, 1:] = 0, 0
    few, factors = compressed(numbers, dtype)
    assert few.dtype == dtype
    off = (few.double() * factors.double()[:, None] - numbers).abs()
    largest = numbers.abs().amax(1, keepdim=True)
    unit = largest / 254 if dtype == torch.int8 else numbers.abs() * 2**-11 + largest * 2**-25
    assert bool((off <= unit * (1 + 1e-6)).all())
    assert bool((few[7] == 0).all())
    assert few.abs().max() == (127 if dtype == torch.int8 else 1)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float16, 2e-3), (torch.int8, 2e-2)])
def test_rows_of_any_size_are_found_up_to_rounding(
    numbers: Tensor, tmp_path: Path, dtype: torch.dtype, rtol: float
) -> None:
    asked = queries(3)
    found = searched(numbers, tmp_path, WIDTH, dtype).best(asked, COUNT)
    exact = asked.double() @ numbers.T
    for sign, best in (
        ("helpful", exact.topk(COUNT)),
        ("harmful", exact.topk(COUNT, largest=False)),
    ):
        bound = rtol * asked.norm(dim=1, keepdim=True) * numbers.norm(dim=1).max()
        assert bool(((found.values[sign] - best.values).abs() <= bound).all())
    least = numbers[:1].float()  # a row of 1e-12, alone
    (score,) = (
        searched(numbers[:1], tmp_path / "least", WIDTH, dtype).best(least, 1).values["helpful"]
    )
    assert float(score) == pytest.approx(float((least * least).sum()), rel=rtol)


@pytest.mark.parametrize("dtype", [torch.float16, torch.int8])
def test_of_a_large_index_the_strongest_by_the_leading_numbers_are_looked_at(
    numbers: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """All of their numbers decide among these; with enough of them nothing is passed over."""
    whole = searched(numbers, tmp_path / "whole", 8, dtype).best(queries(5), COUNT)
    for name, value in {"SEARCHED_WHOLE": 1, "LEADING": 8, "LOOKED_AT": 60}.items():
        monkeypatch.setattr(indexing, name, value)
    index = searched(numbers, tmp_path / "large", 8, dtype)
    assert index.lead is not None
    assert index.lead.shape == (ROWS, 8)
    found = index.best(queries(5), COUNT)
    for sign in search.SIGNS:
        assert found.rows[sign].tolist() == whole.rows[sign].tolist()
        assert torch.allclose(found.values[sign], whole.values[sign], rtol=1e-4)


def test_its_files_have_no_name_left(numbers: Tensor, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    half, factors = compressed(numbers, torch.float16)
    objects = Objects(str(tmp_path / "objects"))
    matrix = NewMatrix("numbers", tuple(half.shape), tuple(half.shape), "float16")
    matrix.describe(objects)
    matrix.write(objects, 0, 0, half.numpy())
    index = Searched.copied(Chunks.open(objects, "numbers"), factors, torch.arange(8), scratch)
    assert list(scratch.iterdir()) == []
    assert bool((index.numbers == half).all())


def test_whole_numbers_of_which_a_part_is_missing_are_refused(
    numbers: Tensor, tmp_path: Path
) -> None:
    """They have no NaN that would say so."""
    few, _ = compressed(numbers, torch.int8)
    objects = Objects(str(tmp_path))
    matrix = NewMatrix("numbers", tuple(few.shape), (128, WIDTH), "int8")
    matrix.describe(objects)
    matrix.write(objects, 0, 0, few[:128].numpy())
    stored = Chunks.open(objects, "numbers")
    (block,) = stored.blocks(range(100), range(WIDTH), 1 << 20)
    assert (block == few[:100].numpy()).all()
    with pytest.raises(InternalError, match="a part of a stored matrix is missing"):
        list(stored.blocks(range(100, 200), range(WIDTH), 1 << 20))
