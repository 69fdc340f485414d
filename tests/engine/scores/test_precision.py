"""Low precision is for the last product alone, and a sample says whether to trust it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.engine.exact import relative
from workers.engine import (
    BadParameter,
    Problem,
    TensorRows,
    low_precision_agreement,
    make_loss,
    per_example_gradients,
    up,
)


def problem_and_rows() -> tuple[Problem, TensorRows]:
    module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    problem = Problem(module, make_loss("cross_entropy"))
    return problem, TensorRows(torch.randn(90, 6), torch.arange(90) % 3)


def test_bf16_scores_are_near_those_of_float32_and_say_how_near() -> None:
    problem, rows = problem_and_rows()
    factors = torch.randn(5, problem.size)
    full = torch.cat([each for _, each in up(problem, factors, rows)], 1)
    low = torch.cat([each for _, each in up(problem, factors, rows, precision="bf16")], 1)
    assert low.dtype == torch.float32
    assert 1e-6 < relative(low, full.double()) < 2e-2
    found = low_precision_agreement(problem, factors, rows, "bf16")
    expected = torch.corrcoef(torch.stack([low.flatten(), full.flatten()]))[0, 1]
    assert found.correlation == pytest.approx(float(expected), abs=1e-4)
    assert found.warning is None


def test_scores_without_meaning_are_warned_of() -> None:
    problem, rows = problem_and_rows()
    # A factor orthogonal to all gradients but for rounding: bfloat16 has only rounding left.
    gradients = per_example_gradients(problem, next(rows.batches(90))).double()
    vectors = torch.linalg.svd(gradients, full_matrices=True).Vh
    factors = (100 * vectors[-1:] + 1e-3 * vectors[:1]).float()
    found = low_precision_agreement(problem, factors, rows, "bf16")
    assert found.correlation < 0.99
    assert found.warning is not None
    assert "precision full" in found.warning


def test_double_precision_is_never_lowered() -> None:
    problem, rows = problem_and_rows()
    wide = Problem(problem.module, make_loss("cross_entropy"), ("*",), dtype=torch.float64)
    factors = torch.randn(2, wide.size, dtype=torch.float64)
    for (_, low), (_, full) in zip(
        up(wide, factors, rows, precision="bf16"), up(wide, factors, rows), strict=True
    ):
        assert torch.equal(low, full)


def test_the_setting_for_tf32_is_put_back() -> None:
    problem, rows = problem_and_rows()
    before = torch.get_float32_matmul_precision()
    list(up(problem, torch.randn(2, problem.size), rows, precision="tf32"))
    assert torch.get_float32_matmul_precision() == before


def test_an_unknown_precision_is_refused() -> None:
    problem, rows = problem_and_rows()
    with pytest.raises(BadParameter, match="bf16"):
        list(up(problem, torch.randn(2, problem.size), rows, precision="fp8"))  # type: ignore[arg-type]
