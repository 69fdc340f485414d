"""Memory does not grow with the number of rows: no graph outlives its batch unless it fits."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor

from workers.engine import Hessian, Problem, TensorRows, make_loss, perturbation, up
from workers.engine.autodiff.hvp import ReverseLoop

from .models import make


class Saved:
    """A tensor that autograd keeps; counts how many bytes of them are alive at once."""

    alive: ClassVar[int] = 0
    peak: ClassVar[int] = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()
        self.size = tensor.numel() * tensor.element_size()
        Saved.alive += self.size
        Saved.peak = max(Saved.peak, Saved.alive)

    def __del__(self) -> None:
        Saved.alive -= self.size


def peak_of_a_pass(count: int, budget: int) -> int:
    case = make("perceptron")
    problem = Problem(case.module, make_loss(case.loss))
    rows = TensorRows(torch.randn(count, 4, dtype=torch.float64), torch.arange(count) % 3)
    hessian = Hessian(problem, rows, batch_size=10, budget_bytes=budget)
    # torch.func allows no such hooks, so the way is set; all of them share the same frame.
    hessian._sums.derivatives.update(dict.fromkeys((True, False), ReverseLoop()))
    Saved.alive = Saved.peak = 0
    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        for _ in range(2):
            hessian.matmat(torch.ones(2, problem.size, dtype=torch.float64))
    return Saved.peak


def test_a_pass_over_ten_times_the_rows_keeps_no_more() -> None:
    assert 0 < peak_of_a_pass(400, 10_000) <= 1.01 * peak_of_a_pass(40, 10_000)


def test_with_room_graphs_are_kept_and_the_test_above_would_see_it() -> None:
    assert peak_of_a_pass(400, 1 << 30) > 5 * peak_of_a_pass(40, 1 << 30)


@pytest.mark.parametrize("kind", [up, perturbation])
def test_blocks_shrink_as_test_rows_grow(kind: object) -> None:
    case = make("perceptron")
    problem = Problem(case.module, make_loss(case.loss))
    rows = TensorRows(torch.randn(600, 4, dtype=torch.float64), torch.arange(600) % 3)
    sizes = []
    for count in (2, 2000):
        factors = torch.zeros(count, problem.size, dtype=torch.float64)
        _, block = next(iter(kind(problem, factors, rows, budget_bytes=1_000_000)))  # type: ignore[operator]
        sizes.append(block.numel() * block.element_size())
    assert max(sizes) <= 1_000_000
