"""What a solution leaves for the next one saves products, and changes no promise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.engine.matrices import Matrix, Symmetric, decaying, with_damping, with_eigenvalues
from workers.engine import ConjugateGradients, Hessian, Lissa, Problem, Recycled, make_loss
from workers.engine.inversion import recycled as module
from workers.engine.inversion import stationary
from workers.engine.inversion.recycled import Directions

from .test_explicit import hessian, parts


def many(count: int, size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("damping", [1e-3, 5e-3])
def test_directions_of_one_solution_save_products_of_the_next(damping: float) -> None:
    matrix, method = decaying(400, 1e-4), ConjugateGradients(rtol=1e-8, atol=0.0)
    recycled = Recycled()
    method.solve(*Matrix(matrix, 1e-3), many(10, 400, 1), recycled=recycled)
    alone, helped = Matrix(matrix, damping), Matrix(matrix, damping)
    rhs = many(10, 400, 2)
    expected = method.solve(*alone, rhs)
    found = method.solve(*helped, rhs, recycled=recycled)
    assert sum(helped.widths) < 0.75 * sum(alone.widths)
    true = torch.linalg.vector_norm(rhs - helped.matmat(found.x), dim=1)
    assert bool((true <= 1e-8 * torch.linalg.vector_norm(rhs, dim=1)).all())
    torch.testing.assert_close(found.x, expected.x, rtol=1e-4, atol=1e-4)


def test_a_matrix_that_was_built_is_used_again_for_any_damping() -> None:
    module, rows, rhs = parts()
    problem, recycled = Problem(module, make_loss("cross_entropy")), Recycled()
    method = ConjugateGradients(rtol=1e-10, atol=0.0)
    for number, damping in enumerate((0.3, 0.3, 0.5)):
        operator = with_damping(Hessian(problem, rows), damping)
        found = method.solve(*operator, rhs + number, recycled=recycled)
        assert operator.passes == (1 if number == 0 else 0)
        by_products = with_damping(Hessian(problem, rows, product="reverse_batched"), damping)
        residual = rhs + number - by_products.matmat(found.x)
        assert float(residual.norm() / rhs.norm()) < 1e-10
    assert recycled.nbytes == 2 * 8 * 354**2


class Dear(Symmetric):
    """A matrix that pays from 100 products on."""

    def matrix_if_cheaper(self, vectors: int, width: int) -> Tensor | None:
        return self.mean if vectors >= 100 else None


def test_a_matrix_is_built_once_all_solutions_together_pay_for_it() -> None:
    recycled, passes = Recycled(), []
    for number in range(5):
        operator = Matrix(decaying(60, 1e-2), 1e-2, kind=Dear)
        method = ConjugateGradients(rtol=1e-5, atol=0.0)
        found = method.solve(*operator, many(1, 60, number), recycled=recycled)
        assert bool(found.converged.all())
        passes.append(operator.passes)
    assert min(passes[:2]) > 0
    assert passes[2:] == [0, 0, 0]


def test_lissa_takes_the_matrix_that_conjugate_gradients_left() -> None:
    recycled, rhs = Recycled(), parts()[2]
    ConjugateGradients(rtol=1e-6).solve(*hessian(), rhs, recycled=recycled)
    operator = hessian()
    method = Lissa(maxiter=50, scale=20.0)
    found = method.solve(*operator, rhs, recycled=recycled)
    assert operator.passes == 0
    torch.testing.assert_close(found.x, method.solve(*hessian(), rhs).x, rtol=1e-8, atol=1e-8)


def test_lissa_decomposes_a_matrix_once_for_all_blocks_and_every_damping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stationary, "MOST_DIRECTIONS", 12)
    matrix = with_eigenvalues(torch.linspace(0.0, 1.0, 150).tolist())
    recycled, asked, found = Recycled(matrix=matrix), many(12, 150, 0), []
    for damping, part in ((0.01, asked[:6]), (0.01, asked[6:]), (0.05, asked[:6])):
        operator = Matrix(matrix, damping=damping)
        method = Lissa(maxiter=9000, scale=0.6, rtol=1e-10)
        solution = method.solve(*operator, part, recycled=recycled)
        torch.testing.assert_close(solution.x, operator.inverse(part), rtol=1e-6, atol=1e-7)
        found.append(recycled.spectrum)
    assert found[0] is not None
    assert found[0] is found[1] is found[2]
    assert not found[0].serves(10**6)


def test_where_the_factor_fails_negative_curvature_is_reported_as_ever() -> None:
    module, rows, rhs = parts()
    problem, recycled = Problem(module, make_loss("cross_entropy")), Recycled()
    method = ConjugateGradients(rtol=1e-6, unsolved="keep")
    method.solve(*with_damping(Hessian(problem, rows), 0.3), rhs, recycled=recycled)
    assert recycled.matrix is not None
    recycled.matrix -= 0.5 * torch.eye(len(recycled.matrix), dtype=torch.float64)
    recycled.factor = None
    found = method.solve(*with_damping(Hessian(problem, rows), 0.3), rhs, recycled=recycled)
    assert set(found.info["status"]) == {"negative_curvature"}


def test_a_single_solution_collects_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Directions, "add", lambda *_: pytest.fail("a direction was kept"))
    ConjugateGradients().solve(*Matrix(decaying(30, 1e-2)), many(3, 30, 0))


def test_directions_are_bounded_in_number_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    method = ConjugateGradients(rtol=1e-10, atol=0.0)
    recycled = Recycled()
    method.solve(*Matrix(decaying(900)), many(40, 900, 0), recycled=recycled)
    assert recycled.vectors is not None
    assert recycled.vectors.shape[1] <= module.MOST_PAIRS
    monkeypatch.setattr(module, "MOST_BYTES", 900 * 8 * 25)
    few = Recycled()
    method.solve(*Matrix(decaying(900)), many(10, 900, 0), recycled=few)
    assert few.vectors is not None
    assert few.vectors.shape[1] <= 25
