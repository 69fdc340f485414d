"""Operators whose second derivative torch has wrong, or not at all: right by the formula, or refused with a way out.

The formula is of a twin that is written in elementary operations.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.journeys.formulas import Formula
from tests.programs.factories import weight_normed
from upweight import Client
from upweight.errors import ComputationFailed, Rejected
from upweight.export import ExportFailed

ROWS, DAMPING = 12, 2.0

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, in its Hessian


def computed(client: Client, name: str) -> object:
    return client.compute_influences(
        name,
        name,
        name,
        test_rows="0:3",
        inversion_method="direct",
        hessian_regularization=DAMPING,
        precision="float64",
        progress=False,
    )


class ByHand(nn.Module):
    """Weight normalisation over rows, in elementary operations."""

    def forward(self, length: Tensor, direction: Tensor) -> Tensor:
        return direction * (length / direction.square().sum(1, keepdim=True).sqrt())

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return weight.square().sum(1, keepdim=True).sqrt(), weight


def normed_by_hand() -> nn.Module:
    layer = nn.Linear(3, 4)
    nn.utils.parametrize.register_parametrization(layer, "weight", ByHand())
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(4, 2))


class Both(nn.Module):
    """Bags of words, then a distance to centres, through a gate; by torch's operators or in elementary ones."""

    def __init__(self, elementary: bool) -> None:
        super().__init__()
        self.elementary = elementary
        self.bags = nn.EmbeddingBag(6, 3, mode="mean", padding_idx=0)
        self.centres = nn.Parameter(torch.randn(2, 3))

    def forward(self, ids: Tensor) -> Tensor:
        if not self.elementary:
            return torch.cdist(F.hardsigmoid(self.bags(ids)), self.centres)
        counts = (ids != 0).unsqueeze(2)
        bags = (self.bags.weight[ids] * counts).sum(1) / counts.sum(1).clamp_min(1)
        gate = (bags + 3).clamp(0, 6) / 6
        return (gate[:, None] - self.centres).square().sum(2).sqrt()


def test_weight_norm_is_differentiated_twice_as_by_hand(online: Client, fresh_name: str) -> None:
    torch.manual_seed(1)
    module, twin = weight_normed().double(), normed_by_hand().double()
    twin.load_state_dict(module.state_dict())
    x, y = torch.randn(ROWS, 3).double(), torch.randn(ROWS, 2).double()
    online.models.register(fresh_name, module, example=x[:2], loss="mse")
    online.datasets.register(fresh_name, x=x, y=y)
    formula = Formula(twin, F.mse_loss, x, y, DAMPING)
    result = computed(online, fresh_name)
    exact = formula.up(formula.factors(x[:3], y[:3]), x, y).numpy()
    np.testing.assert_allclose(result.numpy(), exact, rtol=1e-7, atol=1e-9)
    assert result.info["derivative_check"] == {"checked": False, "reason": "operators verified"}


def test_bags_distances_and_hard_gates_are_written_out(online: Client, fresh_name: str) -> None:
    torch.manual_seed(1)
    module, twin = Both(False).double(), Both(True).double()
    twin.load_state_dict(module.state_dict())
    ids, y = torch.randint(0, 6, (ROWS, 4)), torch.randn(ROWS, 2).double()
    online.models.register(fresh_name, module, example=ids[:2], loss="mse")
    online.datasets.register(fresh_name, ids=ids, y=y)
    formula = Formula(twin, F.mse_loss, ids, y, DAMPING)
    exact = formula.up(formula.factors(ids[:3], y[:3]), ids, y).numpy()
    np.testing.assert_allclose(computed(online, fresh_name).numpy(), exact, rtol=1e-7, atol=1e-9)


def test_a_job_on_a_wrong_derivative_fails_and_names_the_module(
    online: Client, fresh_name: str
) -> None:
    weights = weight_normed().state_dict()
    factory = "tests.programs.factories:weight_normed"
    online.models.register(fresh_name, factory=factory, weights=weights, loss="mse")
    online.datasets.register(fresh_name, x=torch.randn(ROWS, 3), y=torch.randn(ROWS, 2))
    with pytest.raises(ComputationFailed, match=r"wrong in the module 0\.parametrizations\.weight"):
        computed(online, fresh_name)


def test_a_wrong_second_derivative_is_no_matter_to_a_curvature_that_has_none(
    online: Client, fresh_name: str
) -> None:
    module, twin = weight_normed(), normed_by_hand().double()
    twin.load_state_dict(module.state_dict())
    factory = "tests.programs.factories:weight_normed"
    online.models.register(fresh_name, factory=factory, weights=module.state_dict(), loss="mse")
    x, y = torch.randn(ROWS, 3), torch.randn(ROWS, 2)
    online.datasets.register(fresh_name, x=x, y=y)
    x, y = x.double(), y.double()
    theta = torch.cat([each.detach().flatten() for each in twin.parameters()])

    def outputs(theta: Tensor) -> Tensor:
        pieces = theta.split([each.numel() for each in twin.parameters()])
        named = {
            name: piece.view_as(each)
            for piece, (name, each) in zip(pieces, twin.named_parameters(), strict=True)
        }
        return torch.func.functional_call(twin, named, (x,))

    def losses(theta: Tensor) -> Tensor:
        return (outputs(theta) - y).square().mean(1)

    slopes = torch.autograd.functional.jacobian(outputs, theta)
    gradients = torch.autograd.functional.jacobian(losses, theta)
    # The mean of two squares has the identity as its Hessian in the outputs.
    matrices = {
        "gauss_newton": torch.einsum("bop,boq->pq", slopes, slopes) / ROWS,
        "empirical_fisher": gradients.T @ gradients / ROWS,
        "identity": torch.eye(len(theta), dtype=torch.float64),
    }
    for name, matrix in matrices.items():
        kind = {"kind": "hessian", "structure": name} if name == "identity" else name
        result = online.compute_influences(
            fresh_name, fresh_name, fresh_name, test_rows="0:3", curvature=kind, precision="float64",
            inversion_method="direct", hessian_regularization=DAMPING, progress=False,
        )  # fmt: skip
        damped = matrix + DAMPING * torch.eye(len(theta), dtype=torch.float64)
        exact = gradients[:3] @ torch.linalg.solve(damped, gradients.T)
        np.testing.assert_allclose(result.numpy(), exact.numpy(), rtol=1e-7, atol=1e-9)
        assert "takes no second derivative" in result.info["derivative_check"]["reason"]
    with pytest.raises(ComputationFailed, match="wrong in the module"):  # of moving an input
        online.compute_influences(
            fresh_name, fresh_name, fresh_name, test_rows="0:3", curvature="gauss_newton",
            influence_type="perturbation", hessian_regularization=DAMPING, progress=False,
        )  # fmt: skip


def test_a_job_on_unknown_operators_says_that_they_were_compared(
    online: Client, fresh_name: str
) -> None:
    online.models.register(
        fresh_name,
        factory="torch.nn:Linear",
        kwargs={"in_features": 3, "out_features": 2},
        weights=nn.Linear(3, 2).state_dict(),
        loss="mse",
    )
    online.datasets.register(fresh_name, x=torch.randn(ROWS, 3), y=torch.randn(ROWS, 2))
    found = computed(online, fresh_name).info["derivative_check"]
    assert found["checked"]
    assert found["relative_error"] < 1e-4


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(4, dtype=torch.cfloat))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(x) * self.filter, n=6)


class Alignment(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.line(x).view(-1, 2, 3).log_softmax(-1).transpose(0, 1)
        ones = torch.ones(x.shape[0], dtype=torch.long)
        labels = torch.ones(x.shape[0], 1, dtype=torch.long)
        return F.ctc_loss(scores, labels, 2 * ones, ones, reduction="none")[:, None]


class Looked(nn.Module):
    def __init__(self, **options: object) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3, **options)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids).sum(1)


REFUSED: dict[str, tuple[Callable[[], nn.Module], Tensor, str]] = {
    "complex": (Complex, torch.randn(2, 6), r"filter is complex64.*view_as_complex"),
    "ctc": (Alignment, torch.randn(2, 6), r"ctc_loss has no second derivative.*logsumexp"),
    "scaled": (
        lambda: Looked(scale_grad_by_freq=True),
        torch.tensor([[0, 1], [2, 2]]),
        r"table \(Embedding\).*scale_grad_by_freq=False",
    ),
    "sparse": (
        lambda: Looked(sparse=True),
        torch.tensor([[0, 1], [2, 2]]),
        r"table \(Embedding\).*sparse=False",
    ),
    "bounded": (
        lambda: Looked(max_norm=1.0),
        torch.tensor([[0, 1], [2, 2]]),
        r"table.*max_norm=None",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_right_is_refused_by_name(
    online: Client, fresh_name: str, name: str
) -> None:
    make, example, words = REFUSED[name]
    with pytest.raises((Rejected, ExportFailed), match=words):
        online.models.register(fresh_name, make(), example=example, loss="mse")
