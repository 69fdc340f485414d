"""What a λ is chosen by, against matrices whose spectrum is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.engine.matrices import Symmetric, with_eigenvalues
from workers.engine.inversion.damping import FEW, Measured, measured
from workers.engine.operators import Curvature, Explicit

MANY = FEW + 100  # more than are diagonalised
GRAPED = torch.linspace(-0.3, 5.0, MANY, dtype=torch.float64)


def look(curvature: Curvature, *, ends: bool = True, budget: int = 1 << 28) -> Measured:
    return measured(curvature, ends=ends, seed=3, budget_bytes=budget)


@pytest.fixture(scope="module")
def large() -> Tensor:
    return with_eigenvalues(GRAPED.tolist())


def test_few_parameters_are_looked_at_exactly() -> None:
    values = [-0.5, 0.0, 0.25, 1.0, 4.0]
    found = look(Symmetric(with_eigenvalues(values)))
    assert found.is_exact
    assert found.mean == pytest.approx(4.75 / 5, rel=1e-12)
    assert found.smallest == pytest.approx(-0.5, rel=1e-12)
    assert [found.share_below(each) for each in (0.1, 0.3, 0.6, 5.0)] == pytest.approx(
        [0.2, 0.4, 0.6, 1.0]
    )


def test_many_are_estimated_within_the_error_that_is_told(large: Tensor) -> None:
    found = look(Symmetric(large))
    exact = float(GRAPED.mean())
    assert 0 < found.mean_error < 0.05 * exact
    assert abs(found.mean - exact) < 4 * found.mean_error
    assert found.smallest is not None
    assert -0.3 - 1e-9 <= found.smallest < -0.29
    assert found.smallest - found.smallest_error < -0.3 + 1e-9
    for damping in (0.5, 1.0, 3.0):
        share = float((GRAPED.abs() < damping).double().mean())
        assert found.share_below(damping) == pytest.approx(share, abs=0.1)
    assert "Hutchinson" in found.how
    assert "Lanczos" in found.how


def test_a_matrix_at_hand_gives_its_trace_without_a_pass(large: Tensor) -> None:
    curvature = Symmetric(large)
    found = look(Explicit(curvature, large))
    assert curvature.passes == 0
    assert found.mean == pytest.approx(float(GRAPED.mean()), rel=1e-12)
    assert found.mean_error == 0.0
    assert found.smallest == pytest.approx(-0.3, rel=1e-3)


def test_the_mean_alone_takes_one_product(large: Tensor) -> None:
    curvature = Symmetric(large)
    found = look(curvature, ends=False)
    assert curvature.passes == 1
    assert found.smallest is None
    assert found.share_below(1.0) is None


def test_an_invariant_space_ends_the_steps() -> None:
    found = look(Symmetric(with_eigenvalues([3.0, 2.0, 1.0] + [0.0] * (MANY - 3))))
    assert found.smallest == pytest.approx(0.0, abs=1e-10)
    assert found.nodes is not None
    assert len(found.nodes) < 20


def test_little_memory_takes_fewer_steps(large: Tensor) -> None:
    found = look(Symmetric(large), budget=4 * 20 * MANY * 8)
    assert found.nodes is not None
    assert len(found.nodes) == 20


@pytest.mark.parametrize(
    ("values", "damping", "rule"),
    [
        ([-0.5, 0.0, 1.0], 0.55, "positive"),
        ([-0.01, 1.0, 2.0], 0.1 * 2.99 / 3, "mean"),
        ([0.5, 1.0, 3.0], 0.15, "mean"),
        ([-2.0, -1.0, 0.0], 2.2, "positive"),
    ],
)
def test_auto_lifts_what_is_negative_and_takes_a_tenth_of_the_mean_at_least(
    values: list[float], damping: float, rule: str
) -> None:
    found, by = look(Symmetric(with_eigenvalues(values))).safe
    assert found == pytest.approx(damping, rel=1e-12)
    assert by == rule


def test_the_same_seed_gives_the_same_bits(large: Tensor) -> None:
    first, second = look(Symmetric(large)), look(Symmetric(large))
    assert first.mean == second.mean
    assert first.safe == second.safe
