"""What a row takes, and that finding it out leaves nothing behind."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor, nn

from workers.engine import Problem, TensorRows, make_loss
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


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
def test_nothing_of_a_model_is_held_once_it_is_let_go_of(network: nn.Module) -> None:
    rows = TensorRows(ROWS, torch.zeros(len(ROWS), dtype=torch.int64))

    def measured() -> int:
        return activation_bytes(Problem(network.eval(), make_loss("cross_entropy")), rows)

    first, before = measured(), tensors_alive()
    assert measured() == first > 0
    assert tensors_alive() == before
