"""θ is by default what requires gradients: an archive says it, and what is frozen counts and is not moved."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.engine.matrices import with_damping
from tests.frozen_models import CASES, ROWS, frozen_body, network, rows, trained_part
from tests.journeys.formulas import Formula
from upweight.export import exported, save_program
from workers.engine import (
    Batch,
    ConjugateGradients,
    Direct,
    Hessian,
    NothingTrains,
    Problem,
    TensorRows,
    make_loss,
    per_example_gradients,
    up,
)
from workers.programs.models import described_frozen
from workers.programs.pt2 import Pt2Policy, read_pt2

DAMPING = 2.0
CROSS_ENTROPY = make_loss("cross_entropy")
pytestmark = pytest.mark.filterwarnings("ignore")


def classes() -> Tensor:
    return torch.arange(ROWS) % 3


def read(module: nn.Module, x: Tensor, folder: Path, policy: Pt2Policy) -> nn.Module:
    """As a worker has it, through a file."""
    save_program(module, x[:2], folder / "m.pt2")
    return read_pt2(folder / "m.pt2", policy=policy).module


@pytest.mark.parametrize("policy", [Pt2Policy.SANITIZED, Pt2Policy.TRUSTED])
@pytest.mark.parametrize("case", CASES)
def test_influence_is_over_the_parameters_that_require_gradients(
    case: str, policy: Pt2Policy, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    make, data = CASES[case]
    module, x, y = make().double().eval(), data(), classes()
    problem = Problem(read(module, x, tmp_path, policy), CROSS_ENTROPY)
    named = dict(module.named_parameters())
    assert [each.name for each in problem.layout] == [
        name for name, value in named.items() if value.requires_grad
    ]
    fixed = {name: value for name, value in named.items() if not value.requires_grad}
    assert described_frozen(problem, None) == {
        "parameter_count": sum(each.numel() for each in fixed.values()),
        "parameters": list(fixed),
        "reason": "requires_grad is False",
    }
    data_set = TensorRows([x], y)
    formula = Formula(trained_part(module), F.cross_entropy, x, y, DAMPING)
    exact = formula.up(formula.factors(x[:3], y[:3]), x, y)
    rhs = per_example_gradients(problem, Batch((x[:3],), y[:3], 0))
    for method in (Direct(), ConjugateGradients(rtol=1e-10, atol=0.0)):
        factors = method.solve(*with_damping(Hessian(problem, data_set), DAMPING), rhs).x
        found = torch.cat([block for _, block in up(problem, factors, data_set)], 1)
        torch.testing.assert_close(found, exact, rtol=1e-7, atol=1e-9)


def test_a_problem_in_double_has_the_same_parameters() -> None:
    problem = Problem(frozen_body().eval(), CROSS_ENTROPY).in_double()
    assert [each.name for each in problem.layout] == ["2.weight", "2.bias"]


def test_globs_choose_among_all_parameters() -> None:
    module = frozen_body().eval()
    assert Problem(module, CROSS_ENTROPY, ["*"]).size == 27
    problem = Problem(module, CROSS_ENTROPY, ["0.*"])
    assert [each.name for each in problem.layout] == ["0.weight", "0.bias"]
    fixed = described_frozen(problem, ["0.*"])
    assert fixed is not None
    assert (fixed["parameters"], fixed["reason"]) == (
        ["2.weight", "2.bias"],
        "not matched by the globs",
    )


def test_a_model_that_trains_nothing_is_refused_with_the_way_out() -> None:
    with pytest.raises(NothingTrains, match=r"\['\*'\] for all"):
        Problem(network().requires_grad_(False).eval(), CROSS_ENTROPY)


def test_an_exported_program_of_ones_own_keeps_the_flags() -> None:
    buffer = io.BytesIO()
    torch.export.save(exported(frozen_body().eval(), rows()[:2].float()), buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer)
    assert [each.requires_grad for each in loaded.parameters()] == [False, False, True, True]
