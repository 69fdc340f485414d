"""Which numbers of a gradient an index keeps, of a curvature that is written down here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from workers.engine import SpectralEmbedding, Strengths
from workers.engine.curvature.structured.blocks import Block, Spectral
from workers.engine.curvature.structured.layout import BlockLayout

DAMPING = 0.01


@pytest.fixture
def form() -> Spectral:
    """Two layers of 6 and 3 parameters; by Λ alone the first numbers of each are the largest."""
    first = Block(
        BlockLayout("a", "diagonal", ("a",), (0,), (6,)), torch.linspace(3, 1, 6).double()
    )
    second = Block(
        BlockLayout("b", "diagonal", ("b",), (6,), (3,)), torch.linspace(2, 1, 3).double()
    )
    return Spectral((first, second), "diagonal", 9, told={"dtype": "float64"}).damped(DAMPING)


@pytest.fixture
def gradients() -> Tensor:
    """(rows, 9), whose numbers 1, 4, 5 and 8 are the largest."""
    sizes = torch.tensor([0.1, 5, 0.2, 0.1, 4, 3, 0.3, 0.1, 6]).double()
    return torch.randn(200, 9, generator=torch.Generator().manual_seed(1)).double() * sizes


def test_the_largest_numbers_are_kept_in_whichever_layer(form: Spectral, gradients: Tensor) -> None:
    def rows(whole: SpectralEmbedding) -> Iterator[Tensor]:
        yield from (whole(some) for some in gradients.split(64))

    found = Strengths.of(form, 2, rows)
    assert found.places.tolist() == [1, 4, 5, 8]
    embedding = SpectralEmbedding.of(form, found)
    assert [each["numbers"] for each in embedding.described["layers"]] == [3, 1]
    values = torch.cat([torch.linspace(3, 1, 6), torch.linspace(2, 1, 3)]).double()
    wanted = (gradients / (values + DAMPING).sqrt())[:, found.places]
    torch.testing.assert_close(embedding(gradients), wanted, rtol=1e-12, atol=0.0)
    strongest = wanted.square().mean(0).topk(2).indices.sort().values
    assert embedding.leading(2).tolist() == strongest.tolist()


def test_a_layer_of_which_nothing_is_kept_gives_no_numbers(
    form: Spectral, gradients: Tensor
) -> None:
    found = Strengths(torch.tensor([6, 7, 8]), torch.ones(3))
    embedding = SpectralEmbedding.of(form, found)
    assert [each["numbers"] for each in embedding.described["layers"]] == [0, 3]
    assert embedding(gradients).shape == (200, 3)


@pytest.mark.parametrize("dimension", [6, 100])
def test_all_are_kept_where_no_layer_is_larger(form: Spectral, dimension: int) -> None:
    def rows(whole: SpectralEmbedding) -> Iterator[Tensor]:
        raise AssertionError("nothing is to be chosen")

    assert Strengths.of(form, dimension, rows).places.tolist() == list(range(9))


def test_an_index_that_has_not_stored_its_choice_keeps_the_largest_eigenvalues_of_each_layer(
    form: Spectral,
) -> None:
    assert Strengths.by_layer(form, 2).places.tolist() == [0, 1, 6, 7]
