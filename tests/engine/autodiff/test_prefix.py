"""Frozen layers run once for each row, and what is left answers as before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from tests.engine.exact import relative
from workers.engine import Hessian, Problem, TensorRows, make_loss, per_example_gradients
from workers.engine.autodiff.graph.prefix import FrozenPrefix, frozen_prefix

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
ROWS = 20


class Trunk(nn.Module):
    """Convolutions that are frozen, and a head of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fc, self.out = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.stem(images)))
        hidden = hidden + self.stem(images)
        return self.out(torch.tanh(self.fc(hidden.mean((2, 3)))))


def made(*parameters: str) -> tuple[Problem, TensorRows]:
    torch.manual_seed(3)
    module, images = Trunk().double().eval(), torch.randn(ROWS, 3, 5, 5, dtype=torch.float64)
    rows = torch.export.Dim("rows", min=2, max=64)
    program = torch.export.export(
        module, (images,), dynamic_shapes=({0: rows},)
    ).run_decompositions({})
    graph = program.module()
    for node in list(graph.graph.nodes):
        if "_guards_fn" in str(node.target):
            graph.graph.erase_node(node)
    graph.recompile()
    problem = Problem(graph, make_loss("cross_entropy"), parameters)
    return problem, TensorRows(images, torch.arange(ROWS) % 3)


def cut(problem: Problem, rows: TensorRows) -> tuple[FrozenPrefix, Any]:
    prefix = frozen_prefix(problem, rows)
    assert prefix is not None
    return prefix, prefix.computed(rows)


@pytest.mark.parametrize("parameters", [("fc.*", "out.*"), ("out.*",), ("norm.*", "out.bias")])
def test_products_and_gradients_are_those_of_the_whole(parameters: tuple[str, ...]) -> None:
    problem, rows = made(*parameters)
    prefix, behind = cut(problem, rows)
    vectors = torch.randn(2, problem.size, dtype=torch.float64)
    found = Hessian(prefix.behind, behind).matmat(vectors)
    assert relative(found, Hessian(problem, rows).matmat(vectors)) < 1e-12
    numbers = torch.tensor([7, 2, 11])
    found = per_example_gradients(prefix.behind, behind.take(numbers))
    assert relative(found, per_example_gradients(problem, rows.take(numbers))) < 1e-12
    assert [each.name for each in prefix.behind.layout] == [each.name for each in problem.layout]


def test_the_frozen_layers_run_once_for_each_row() -> None:
    problem, rows = made("fc.*", "out.*")
    prefix = frozen_prefix(problem, rows)
    assert prefix is not None
    count = 0
    plain = prefix.trunk.forward

    def counted(*given: Tensor) -> Any:
        nonlocal count
        count += len(given[0])
        return plain(*given)

    prefix.trunk.forward = counted  # type: ignore[method-assign]
    behind = prefix.computed(rows)
    hessian = Hessian(prefix.behind, behind)
    for _ in range(3):
        hessian.matmat(torch.randn(2, problem.size, dtype=torch.float64))
    assert count == ROWS
    assert not any("conv" in str(node.target) for node in _graph(prefix.behind).nodes)


@pytest.mark.parametrize("parameters", [("*",), ("stem.*",), ("stem.bias", "out.*")])
def test_a_model_that_moves_from_its_first_layer_on_is_not_cut(parameters: tuple[str, ...]) -> None:
    problem, rows = made(*parameters)
    assert frozen_prefix(problem, rows) is None


def _graph(problem: Problem) -> fx.Graph:
    assert isinstance(problem.module, fx.GraphModule)
    return problem.module.graph
