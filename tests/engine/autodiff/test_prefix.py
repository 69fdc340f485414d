"""Frozen layers run once for each row, and what is left answers as before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from tests.engine.exact import relative
from workers.engine import Hessian, Problem, TensorRows, make_loss, per_example_gradients
from workers.engine.autodiff.graph.prefix import FrozenPrefix, frozen_prefix
from workers.engine.autodiff.graph.trace import draw_with

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


class Held(nn.Module):
    """A live module that holds a part of what moves constant."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc, self.out = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.fc(torch.relu(self.stem(x))))
        return self.out(hidden * self.held(hidden))

    def held(self, hidden: Tensor) -> Tensor:
        return hidden.detach()


class Forgotten(Held):
    def held(self, hidden: Tensor) -> Tensor:
        return hidden


@pytest.mark.parametrize("kind", [Held, Forgotten])
def test_a_graph_that_has_lost_what_is_held_constant_is_not_cut(kind: type[Held]) -> None:
    """Its outputs are the model's, its gradients are not."""
    inputs = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rows = TensorRows(inputs, torch.arange(6) % 3)

    def drawn(module: nn.Module) -> fx.GraphModule:
        own = kind().double().eval()
        own.load_state_dict(module.state_dict())
        size = torch.export.Dim("rows", min=2, max=64)
        found = torch.export.export(own, (inputs,), dynamic_shapes=({0: size},)).module()
        assert isinstance(found, fx.GraphModule)
        return found

    torch.manual_seed(3)
    module = Held().double().eval()
    draw_with(module, drawn)
    problem = Problem(module, make_loss("cross_entropy"), ["fc.*", "out.*"])
    prefix = frozen_prefix(problem, rows)
    assert (prefix is None) == (kind is Forgotten)
    if prefix is not None:
        vectors = torch.randn(2, problem.size, dtype=torch.float64)
        expected = Hessian(problem, rows, product="reverse_loop").matmat(vectors)
        found = Hessian(prefix.behind, prefix.computed(rows)).matmat(vectors)
        assert relative(found, expected) < 1e-12


class Positions(nn.Module):
    """Tokens that train, and positions that don't, which are the same for each row."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places, self.out = nn.Embedding(7, 4), nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        places = self.places(torch.arange(tokens.shape[1], device=tokens.device))
        return self.out(torch.tanh(self.tokens(tokens) + places).sum(1))


@pytest.mark.parametrize("length", [2, 3, 4])
def test_values_that_are_not_a_rows_own_are_not_kept_as_rows(length: int) -> None:
    """Three positions look like three rows, and two like two."""
    torch.manual_seed(3)
    tokens = torch.randint(0, 7, (ROWS, length))
    size = torch.export.Dim("rows", min=2, max=64)
    module = Positions().double().eval()
    graph = torch.export.export(module, (tokens,), dynamic_shapes=({0: size},)).module()
    problem = Problem(graph, make_loss("cross_entropy"), ["tokens.*", "out.*"])
    assert frozen_prefix(problem, TensorRows(tokens, torch.arange(ROWS) % 3)) is None


def test_as_many_rows_go_at_once_as_their_largest_tensor_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem, rows = made("fc.*", "out.*")
    largest = 4 * 5 * 5 * 8  # bytes of a row: channels and places of the stem's outputs
    monkeypatch.setattr("workers.engine.autodiff.graph.prefix.BYTES_AT_ONCE", 6 * largest)
    prefix = frozen_prefix(problem, rows)
    assert prefix is not None
    sizes: list[int] = []
    plain = prefix.trunk.forward

    def noted(*given: Tensor) -> Any:
        sizes.append(len(given[0]))
        return plain(*given)

    prefix.trunk.forward = noted  # type: ignore[method-assign]
    assert len(prefix.computed(rows).values[0]) == ROWS
    assert sizes == [6, 6, 6, 2]
