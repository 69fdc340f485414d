"""Conjugate gradients preconditioned by a structured curvature: the same solutions from fewer products."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.engine.exact import relative
from workers.engine import BadParameter, Over, Problem, TensorRows, make_curvature, make_loss
from workers.engine.inversion.cg import ConjugateGradients
from workers.engine.inversion.structured import Structured
from workers.engine.operators import Curvature, restored, stored

ROWS, DAMPING = 80, 1e-3
every_structure = pytest.mark.parametrize("structure", ["ekfac", "kfac", "diagonal"])
every_kind = pytest.mark.parametrize("kind", ["hessian", "gauss_newton", "fisher"])


def over(outputs: int = 3, loss: str = "cross_entropy", **parameters: Any) -> Over:
    """Features of very different scales, at a minimum of the loss."""
    generator = torch.Generator().manual_seed(1)
    scales = torch.logspace(0, -2, 12, dtype=torch.float64)
    x = torch.randn(ROWS, 12, generator=generator, dtype=torch.float64) * scales
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, outputs)).double().eval()
    y: Tensor = torch.randint(0, outputs, (ROWS,), generator=generator)
    if loss != "cross_entropy":
        y = torch.randn(ROWS, outputs, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            y = net(x) + 0.1 * y
    return Over(Problem(net, make_loss(loss, **parameters)), TensorRows(x, y))


def rhs(curvature: Curvature) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(3, curvature.shape[0], generator=generator, dtype=torch.float64)


@every_kind
@every_structure
def test_the_solution_is_that_without_it(kind: str, structure: str) -> None:
    curvature = make_curvature(over(), kind)
    # The Hessian of this loss has negative eigenvalues of some 1e-2.
    damping = 0.3 if kind == "hessian" else DAMPING
    method = ConjugateGradients(rtol=1e-10, preconditioner=Structured(structure))
    found = method.solve(curvature, damping, rhs(curvature))
    damped = curvature.dense() + damping * torch.eye(curvature.shape[0], dtype=torch.float64)
    assert relative(found.x, torch.linalg.solve(damped, rhs(curvature).T).T) < 1e-6
    assert all(found.converged)
    assert found.info["preconditioner"] == structure


def test_it_has_the_scale_of_the_gauss_newton_matrix() -> None:
    curvature = make_curvature(over(), "gauss_newton")
    dense = curvature.dense()
    for structure in ("ekfac", "diagonal", "layers"):
        kept = curvature.of_structure(structure).dense()
        assert float(kept.trace()) == pytest.approx(float(dense.trace()), rel=1e-12)
    # By the exact blocks of two layers no eigenvalue is above 2, and none below λ over the largest.
    eye = torch.eye(len(dense), dtype=torch.float64)
    found = torch.linalg.eigvals(torch.linalg.solve(kept + DAMPING * eye, dense + DAMPING * eye))
    largest = float(torch.linalg.eigvalsh(kept)[-1])
    assert DAMPING / (DAMPING + largest) <= float(found.real.min()) < float(found.real.max()) <= 2.0


@pytest.mark.parametrize("structure", ["ekfac", "kfac"])
@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_where_a_curvature_is_a_kronecker_product_it_is_the_inverse(
    kind: str, structure: str
) -> None:
    """Of one linear layer and squared errors, with λ: one iteration, where without it takes dozens."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, 12, generator=generator, dtype=torch.float64)
    x = x * torch.logspace(0, -2, 12, dtype=torch.float64)
    y = torch.randn(ROWS, 3, generator=generator, dtype=torch.float64)
    problem = Problem(nn.Linear(12, 3).double().eval(), make_loss("mse"))
    curvature = make_curvature(Over(problem, TensorRows(x, y)), kind)
    own = Structured(structure)
    method = ConjugateGradients(rtol=1e-9, preconditioner=own, recurrence="separate")
    plain = ConjugateGradients(rtol=1e-9, recurrence="separate")
    with_it = method.solve(curvature, DAMPING, rhs(curvature)).info["iterations"]
    without = plain.solve(curvature, DAMPING, rhs(curvature)).info["iterations"]
    assert int(with_it.max()) == 1
    assert int(without.max()) >= 10


@every_structure
def test_its_fit_is_stored_and_serves_another_lambda(structure: str) -> None:
    curvature = make_curvature(over(), "gauss_newton")
    method = ConjugateGradients(rtol=1e-9, preconditioner=Structured(structure))
    fit = method.fit(curvature, 0.5)
    assert fit is not None
    again = restored({name: each.clone() for name, each in stored(fit).items()}).damped(DAMPING)
    own = method.fit(curvature, DAMPING)
    assert own is not None
    assert torch.equal(again.apply(rhs(curvature)), own.apply(rhs(curvature)))


def test_without_lambda_it_still_divides_by_something() -> None:
    curvature = make_curvature(over(), "gauss_newton")
    fit = Structured("ekfac").fit(curvature, 0.0)
    assert bool(torch.isfinite(fit.apply(rhs(curvature))).all())


@pytest.mark.parametrize(
    ("loss", "parameters"),
    [("cross_entropy", {"label_smoothing": 0.1}), ("huber", {}), ("mse", {"reduction": "sum"})],
)
def test_it_is_there_for_every_loss(loss: str, parameters: dict[str, Any]) -> None:
    """Of the nearest sum of squares that the loss has."""
    curvature = make_curvature(over(8, loss, **parameters), "hessian")
    method = ConjugateGradients(rtol=1e-9, preconditioner=Structured("ekfac"))
    found = method.solve(curvature, 2.0, rhs(curvature))
    damped = curvature.dense() + 2.0 * torch.eye(curvature.shape[0], dtype=torch.float64)
    assert relative(found.x, torch.linalg.solve(damped, rhs(curvature).T).T) < 1e-6


def test_a_structure_that_is_unknown_is_refused() -> None:
    with pytest.raises(BadParameter, match="ekfac"):
        Structured("block").fit(make_curvature(over(), "hessian"), 0.1)
