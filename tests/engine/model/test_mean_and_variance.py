"""gaussian_nll of two outputs is torch's GaussianNLLLoss, with its floor, in value and in both derivatives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.engine.exact import relative
from tests.engine.matrices import with_damping
from workers.engine import (
    Arnoldi,
    BadParameter,
    Batch,
    ConjugateGradients,
    Direct,
    Hessian,
    Lissa,
    NotFinite,
    Problem,
    TensorRows,
    check_problem,
    make_loss,
    per_example_gradients,
    up,
)

ROWS, DAMPING = 14, 3.0
X = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
GAUSSIAN = make_loss("gaussian_nll")


class TwoHeads(nn.Module):
    """Mean and variance, each of a head of its own."""

    def __init__(self, positive: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.mean, self.spread = nn.Linear(3, 3), nn.Linear(3, 2), nn.Linear(3, 2)
        self.positive = positive

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(x).tanh()
        return self.mean(hidden), self.positive(self.spread(hidden))


def heads(positive: Callable[[Tensor], Tensor] = F.softplus) -> TwoHeads:
    torch.manual_seed(0)
    return TwoHeads(positive).double().eval()


def influences_by_torch(module: nn.Module) -> Tensor:
    """(H + λI)⁻¹ by double backward of torch's own loss."""
    parameters = list(module.parameters())

    def flat(found: tuple[Tensor | None, ...]) -> Tensor:
        pairs = zip(found, parameters, strict=True)
        return torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in pairs])

    def gradient(row: int) -> Tensor:
        mean, variance = module(X[row : row + 1])
        loss = F.gaussian_nll_loss(mean, Y[row : row + 1], variance)
        return flat(torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True))

    gradients = torch.stack([gradient(row) for row in range(ROWS)])
    hessian = torch.stack(
        [
            flat(torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True))
            for entry in gradients.mean(0)
        ]
    )
    gradients = gradients.detach()
    damped = hessian + DAMPING * torch.eye(len(hessian), dtype=torch.float64)
    return torch.linalg.solve(damped, gradients[:3].T).T @ gradients.T


@pytest.mark.parametrize(
    "method",
    [
        Direct(),
        ConjugateGradients(rtol=1e-10, atol=0.0),
        Lissa(rtol=1e-10, maxiter=5000),
        Arnoldi(28),
    ],
    ids=lambda method: type(method).__name__,
)
def test_influences_are_those_of_torchs_loss(method: Direct) -> None:
    module = heads()
    problem, rows = Problem(module, GAUSSIAN), TensorRows([X], Y)
    rhs = per_example_gradients(problem, Batch((X[:3],), Y[:3], 0))
    factors = method.solve(*with_damping(Hessian(problem, rows), DAMPING), rhs).x
    found = torch.cat([block for _, block in up(problem, factors, rows)], 1)
    assert relative(found, influences_by_torch(module)) < 1e-6


def test_a_variance_below_the_floor_has_torchs_derivatives() -> None:
    module = heads(lambda spread: F.relu(spread) * 1e-6)  # 0 for some rows, below 1e-6 for others
    with torch.no_grad():
        variance = module(X)[1]
    assert bool((variance == 0).any())
    mean = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    spread = torch.tensor([0.0, 1e-7, 9e-7, 2e-6, 0.3], dtype=torch.float64)
    spread = spread[:, None].repeat(1, 2).requires_grad_()
    both = (mean, spread)
    ours = GAUSSIAN(both, Y[:5]).sum()
    theirs = F.gaussian_nll_loss(mean, Y[:5], spread, reduction="none").mean(1).sum()
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(
        torch.autograd.grad(ours, both, create_graph=True),
        torch.autograd.grad(theirs, both, create_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)
        second = torch.autograd.grad(mine.sum(), both, retain_graph=True)
        torch.testing.assert_close(
            second, torch.autograd.grad(other.sum(), both, retain_graph=True)
        )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, in jvp
def test_gradients_by_row_and_by_vmap_agree_below_the_floor() -> None:
    def loss(spread: Tensor) -> Tensor:
        return GAUSSIAN((torch.zeros(1, 2).double(), spread[None]), Y[:1]).sum()

    spread = torch.tensor([[1e-7, 0.5], [0.2, 3e-7]], dtype=torch.float64)
    batched = torch.func.vmap(torch.func.grad(loss))(spread)
    again = spread.clone().requires_grad_()
    (apart,) = torch.autograd.grad(loss(again[0]) + loss(again[1]), again)
    torch.testing.assert_close(batched, apart)
    _, forward = torch.func.jvp(loss, (spread[0],), (torch.ones(2).double(),))
    torch.testing.assert_close(forward, apart[0].sum())


def test_a_negative_variance_is_refused_by_the_check_and_in_a_job() -> None:
    problem = Problem(heads(lambda spread: spread), GAUSSIAN)
    batch = Batch((X,), Y, 0)
    with pytest.raises(BadParameter, match=r"log_variance\.exp\(\)"):
        check_problem(problem, batch)
    with pytest.raises(NotFinite):
        per_example_gradients(problem, batch)
