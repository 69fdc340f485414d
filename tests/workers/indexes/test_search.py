"""The search among an index's numbers, held against the whole product in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from service.storage.arrays import NewMatrix
from service.storage.chunks import Chunks
from service.storage.objects import Objects
from workers.engine import halved
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


def searched(numbers: Tensor, folder: Path, leading: int) -> Searched:
    """As a worker copies it from the storage, which has it in several objects."""
    half, factors = halved(numbers)
    objects = Objects(str(folder / "objects"))
    matrix = NewMatrix("numbers", tuple(half.shape), (128, WIDTH), "float16")
    matrix.describe(objects)
    for number, block in enumerate(half.split(128)):
        matrix.write(objects, number, 0, block.numpy())
    return Searched.copied(Chunks.open(objects, "numbers"), factors, torch.arange(leading), folder)


def queries(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(count, WIDTH, generator=generator)


def test_rows_of_any_size_are_found_up_to_half_precision(numbers: Tensor, tmp_path: Path) -> None:
    asked = queries(3)
    found = searched(numbers, tmp_path, WIDTH).best(asked, COUNT)
    exact = asked.double() @ numbers.T
    for sign, best in (
        ("helpful", exact.topk(COUNT)),
        ("harmful", exact.topk(COUNT, largest=False)),
    ):
        bound = 2e-3 * asked.norm(dim=1, keepdim=True) * numbers.norm(dim=1).max()
        assert bool(((found.values[sign] - best.values).abs() <= bound).all())
    least = numbers[:1].float()  # a row of 1e-12, alone
    (score,) = searched(numbers[:1], tmp_path / "least", WIDTH).best(least, 1).values["helpful"]
    assert float(score) == pytest.approx(float((least * least).sum()), rel=2e-3)


def test_of_a_large_index_the_strongest_by_the_leading_numbers_are_looked_at(
    numbers: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of their numbers decide among these; with enough of them nothing is passed over."""
    whole = searched(numbers, tmp_path / "whole", 8).best(queries(5), COUNT)
    for name, value in {"SEARCHED_WHOLE": 1, "LEADING": 8, "LOOKED_AT": 60}.items():
        monkeypatch.setattr(indexing, name, value)
    index = searched(numbers, tmp_path / "large", 8)
    assert index.lead is not None
    assert index.lead.shape == (ROWS, 8)
    found = index.best(queries(5), COUNT)
    for sign in search.SIGNS:
        assert found.rows[sign].tolist() == whole.rows[sign].tolist()
        assert torch.allclose(found.values[sign], whole.values[sign], rtol=1e-4)


def test_its_files_have_no_name_left(numbers: Tensor, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    half, factors = halved(numbers)
    objects = Objects(str(tmp_path / "objects"))
    matrix = NewMatrix("numbers", tuple(half.shape), tuple(half.shape), "float16")
    matrix.describe(objects)
    matrix.write(objects, 0, 0, half.numpy())
    index = Searched.copied(Chunks.open(objects, "numbers"), factors, torch.arange(8), scratch)
    assert list(scratch.iterdir()) == []
    assert bool((index.numbers == half).all())
