"""Random samples of rows: taken from all rows, linearized once, they are what the rows alone are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from workers.engine import Damped, Hessian, Lissa, Problem, TensorRows, make_loss

ROWS = 40


def rows(classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(ROWS, 6, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(classes, (ROWS,), generator=generator)


def reference(module: nn.Module, inputs: Tensor, targets: Tensor, vectors: Tensor) -> Tensor:
    """Plain torch: the mean loss of these rows, differentiated twice along each vector."""
    parameters = list(module.parameters())
    loss = nn.functional.cross_entropy(module(inputs), targets)
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    gradient = torch.cat([each.flatten() for each in gradients])
    products = []
    for vector in vectors:
        along = torch.autograd.grad(
            gradient @ vector, parameters, retain_graph=True, materialize_grads=True
        )
        products.append(torch.cat([each.flatten() for each in along]))
    return torch.stack(products)


class TableOfRows(nn.Module):
    """Mixes its hidden units by a parameter that has as many rows as there are training rows."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.table = nn.Linear(6, ROWS), nn.Parameter(torch.randn(ROWS, 5))
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(torch.tanh(self.down(x)) @ torch.tanh(self.table)))


MODULES = {
    "tanh": lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)),
    "deep": lambda: nn.Sequential(
        nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)
    ),
    "linear": lambda: nn.Linear(6, 3),
    "norm": lambda: nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3)),
    "flat": lambda: nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Flatten(), nn.Linear(6, 3)),
    "table": TableOfRows,
}
TAKEN = ("tanh", "deep", "linear", "flat")  # by their rows


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("size", [1, 7, 25])
def test_every_sample_has_the_mean_hessian_of_its_rows(name: str, size: int) -> None:
    torch.manual_seed(0)
    module = MODULES[name]().double().eval()
    inputs, targets = rows()
    hessian = Hessian(Problem(module, make_loss("cross_entropy")), TensorRows(inputs, targets))
    generator = torch.Generator().manual_seed(2)
    vectors = torch.randn(4, hessian.shape[0], generator=generator, dtype=torch.float64)
    for _ in range(2):
        for _ in range(3):
            sample = torch.randperm(ROWS, generator=generator)[:size]
            found = hessian.sampled_matmat(sample, vectors)
            expected = reference(module, inputs[sample], targets[sample], vectors)
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
        for _ in range(ROWS // size + 1):  # now all rows pay
            hessian.sampled_matmat(sample, vectors)


@pytest.mark.parametrize("name", [*TAKEN, "norm"])
def test_rows_are_linearized_once_where_the_model_allows_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers.engine.autodiff.graph.linearized import AnalyticHvp

    prepared, real = [], AnalyticHvp.prepare
    module = MODULES[name]().double().eval()
    inputs, targets = rows()
    problem = Problem(module, make_loss("cross_entropy"))
    hessian = Hessian(problem, TensorRows(inputs, targets))
    vectors = torch.randn(4, hessian.shape[0], dtype=torch.float64)
    for _ in range(8):
        hessian.sampled_matmat(torch.randperm(ROWS)[:10], vectors)

    def counted(self: AnalyticHvp, *given: object) -> object:
        prepared.append(given)
        return real(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(AnalyticHvp, "prepare", counted)
    hessian.sampled_matmat(torch.randperm(ROWS)[:10], vectors)
    assert len(prepared) == (0 if name in TAKEN else 1)


def test_lissa_over_random_batches_is_the_recursion_over_those_batches() -> None:
    torch.manual_seed(0)
    module = MODULES["deep"]().double().eval()
    inputs, targets = rows()
    problem = Problem(module, make_loss("cross_entropy"))
    hessian = Damped(Hessian(problem, TensorRows(inputs, targets)), 0.5)
    rhs = torch.randn(3, hessian.shape[0], dtype=torch.float64)
    found = Lissa(scale=10.0, batch_size=8, maxiter=30, seed=3, rtol=1e-30).solve(
        hessian.curvature, 0.5, rhs
    )
    generator, h = torch.Generator().manual_seed(3), rhs
    for _ in range(30):
        sample = torch.randperm(ROWS, generator=generator)[:8]
        product = reference(module, inputs[sample], targets[sample], h)
        h = rhs + h - (product + 0.5 * h) / 10.0
    torch.testing.assert_close(found.x, h / 10.0, rtol=1e-9, atol=1e-10)


def test_rows_that_are_too_many_for_memory_are_linearized_sample_by_sample() -> None:
    module = MODULES["tanh"]().double().eval()
    inputs, targets = rows()
    problem = Problem(module, make_loss("cross_entropy"))
    hessian = Hessian(problem, TensorRows(inputs, targets), budget_bytes=1 << 12)
    vectors = torch.randn(2, hessian.shape[0], dtype=torch.float64)
    for _ in range(8):
        sample = torch.randperm(ROWS)[:10]
        found = hessian.sampled_matmat(sample, vectors)
        expected = reference(module, inputs[sample], targets[sample], vectors)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
