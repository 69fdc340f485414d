"""What a row takes, and that finding it out leaves nothing behind."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from workers.engine import Problem, TensorRows, make_loss
from workers.engine.autodiff.layer_uses import bytes_of_row
from workers.engine.model.batching import activation_bytes

ROWS = torch.randn(8, 6)
NETWORKS = {
    "outputs kept for the way back": nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3)),
    "inputs kept": nn.Sequential(nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 3)),
    "normed": nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Softmax(1), nn.Linear(8, 3)),
}


def tensors_alive() -> int:
    gc.collect()
    return sum(issubclass(type(each), Tensor) for each in gc.get_objects())


def in_layers(problem: Problem, rows: TensorRows) -> int:
    return bytes_of_row(problem, rows, [each.name for each in problem.layout])


@pytest.mark.parametrize("of_row", [activation_bytes, in_layers])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
def test_nothing_of_a_model_is_held_once_it_is_let_go_of(
    network: nn.Module, of_row: Callable[[Problem, TensorRows], int]
) -> None:
    rows = TensorRows(ROWS, torch.zeros(len(ROWS), dtype=torch.int64))

    def measured() -> int:
        return of_row(Problem(network.eval(), make_loss("cross_entropy")), rows)

    first, before = measured(), tensors_alive()
    assert measured() == first > 0
    assert tensors_alive() <= before  # what earlier tests left may go meanwhile


class Attending(nn.Module):
    """Attention over many tokens, whose weights only a second derivative needs."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.head = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x).unsqueeze(1).chunk(3, -1)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.head(mixed.squeeze(1).mean(1))


@pytest.mark.parametrize("count", [1, 2, 8])
def test_a_pass_back_through_layers_takes_less_than_a_second_derivative(count: int) -> None:
    rows = TensorRows(torch.randn(count, 200, 4), torch.zeros(count, dtype=torch.int64))
    problem = Problem(Attending().eval(), make_loss("cross_entropy"))
    weights = 4 * 200 * 200  # bytes of a row's attention
    found = in_layers(problem, rows)
    assert 4 * 200 * (4 + 12) < found < weights < activation_bytes(problem, rows)
