"""Programs that write in place take the analytic products where that is the same function, and never otherwise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.engine.exact import relative
from workers.engine import Batch, Hessian, Problem, TensorRows, make_loss
from workers.engine.autodiff.graph.linearized import analytic_hvp
from workers.engine.autodiff.hvp import ReverseLoop
from workers.engine.model.second_order import twice_differentiable

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


class Residual(nn.Module):
    """A block of a ResNet as torchvision writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.relu = nn.BatchNorm2d(3), nn.ReLU(inplace=True)
        self.head = nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        identity = self.relu(self.first(images))
        out = self.norm(self.second(identity))
        out += identity
        return self.head(self.relu(out).mean((2, 3)))


class ThroughView(nn.Module):
    """Writes through a view of what is read afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, given: Tensor) -> Tensor:
        hidden = self.inner(given)
        hidden.view(-1, 2, 3).add_(0.5)
        return self.head(torch.tanh(hidden))


class ReadAgain(nn.Module):
    """What is overwritten is read again: by another name of the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, given: Tensor) -> Tensor:
        hidden = self.inner(given)
        half = hidden[:, :3]
        hidden.add_(0.5)
        return self.head(torch.cat([half, torch.tanh(hidden[:, 3:])], 1))


def exported(build: Callable[[], nn.Module], *shape: int) -> tuple[Problem, Batch]:
    torch.manual_seed(5)
    module = build().double().eval()
    given = torch.randn(7, *shape, dtype=torch.float64)
    rows = torch.export.Dim("rows", min=2, max=64)
    program = torch.export.export(module, (given,), dynamic_shapes=({0: rows},))
    problem = Problem(program.module(), make_loss("cross_entropy"), ("*",))
    return problem, Batch((given,), torch.arange(7) % 3, 0)


def expected(problem: Problem, batch: Batch, vectors: Tensor) -> Tensor:
    with twice_differentiable():
        return ReverseLoop().prepare(problem, batch)(vectors) / len(batch)


@pytest.mark.parametrize(("build", "shape"), [(Residual, (3, 4, 4))], ids=["residual"])
def test_a_sum_in_place_has_analytic_products(
    build: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    problem, batch = exported(build, *shape)
    hessian = Hessian(problem, TensorRows(batch.inputs, batch.targets))
    vectors = torch.randn(3, problem.size, dtype=torch.float64)
    found = hessian.matmat(vectors)
    assert hessian.product_name == "graph"
    assert relative(found, expected(problem, batch, vectors)) < 1e-12


@pytest.mark.parametrize("build", [ThroughView, ReadAgain], ids=["through a view", "read again"])
def test_what_is_read_again_is_left_to_autograd(build: Callable[[], nn.Module]) -> None:
    problem, batch = exported(build, 4)
    way = analytic_hvp(problem)
    assert way is not None
    with pytest.raises(ValueError, match="writes in place"):
        way.prepare(problem, batch)
    hessian = Hessian(problem, TensorRows(batch.inputs, batch.targets))
    vectors = torch.randn(3, problem.size, dtype=torch.float64)
    assert relative(hessian.matmat(vectors), expected(problem, batch, vectors)) < 1e-12
    assert hessian.product_name != "graph"


def test_a_mask_by_and_has_analytic_products() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, given: Tensor) -> Tensor:
            seen = (given > -1.0) & (given < 1.0)
            return self.head(torch.tanh(self.inner(given * seen.to(given.dtype))))

    problem, batch = exported(Masked, 4)
    hessian = Hessian(problem, TensorRows(batch.inputs, batch.targets))
    vectors = torch.randn(3, problem.size, dtype=torch.float64)
    found = hessian.matmat(vectors)
    assert hessian.product_name == "graph"
    assert relative(found, expected(problem, batch, vectors)) < 1e-12
