"""Instance normalisation as it is by default, by the statistics of each row: gradients and curvature are right."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from tests.engine.autodiff.test_exported import exported
from tests.engine.exact import relative
from workers.engine import (
    Hessian,
    Problem,
    TensorRows,
    TrainingMode,
    check_problem,
    make_loss,
    row_gradients,
)

pytestmark = pytest.mark.filterwarnings(  # torch's own, while it exports
    "ignore::FutureWarning", "ignore::DeprecationWarning"
)
SIZES = {1: (6,), 2: (5, 4), 3: (3, 4, 3)}


class ByHand(nn.Module):
    """The same arithmetic in elementary operations."""

    def __init__(self, layer: nn.modules.instancenorm._InstanceNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = layer.weight, layer.bias, layer.eps

    def forward(self, x: Tensor) -> Tensor:
        axes = tuple(range(2, x.ndim))
        centred = x - x.mean(axes, keepdim=True)
        found = centred / (centred.square().mean(axes, keepdim=True) + self.eps).sqrt()
        if self.weight is None:
            return found
        shape = (1, -1, *[1] * len(axes))
        return found * self.weight.view(shape) + self.bias.view(shape)


class Net(nn.Module):
    def __init__(self, norm: nn.Module, conv: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.last = conv, norm, last

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv(x)).tanh()
        found: Tensor = self.last(h.flatten(2).square().mean(2))
        return found


def nets(axes: int, affine: bool) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(axes)
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1](2, 3, 2)
    layer = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[axes - 1](3, affine=affine)
    if affine:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    last = nn.Linear(3, 2)
    return Net(layer, convolution, last).eval(), Net(ByHand(layer), convolution, last).eval()


def by_plain_autograd(net: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients (rows, p) and the Hessian of the mean loss (p, p), in float64."""
    net = net.double()
    named = dict(net.named_parameters())
    sizes = [each.numel() for each in named.values()]
    theta = torch.cat([each.detach().reshape(-1) for each in named.values()])

    def loss(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        pieces = theta.split(sizes)
        weights = {n: p.view(named[n].shape) for n, p in zip(named, pieces, strict=True)}
        return nn.functional.cross_entropy(functional_call(net, weights, (x,)), y)

    rows = [
        torch.autograd.functional.jacobian(
            lambda t, i=i: loss(t, x[i : i + 1], y[i : i + 1]), theta
        )
        for i in range(len(y))
    ]
    hessian = torch.autograd.functional.hessian(lambda t: loss(t, x, y), theta)
    return torch.stack(rows), hessian


@pytest.mark.parametrize("decomposed", [False, True], ids=["operator", "core operators"])
@pytest.mark.parametrize("affine", [False, True], ids=["plain", "affine"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_gradients_and_curvature_are_those_of_plain_arithmetic(
    axes: int, affine: bool, decomposed: bool
) -> None:
    net, by_hand = nets(axes, affine)
    torch.manual_seed(0)
    x, y = torch.randn(5, 2, *SIZES[axes]), torch.arange(5) % 2
    module = _decomposed(net, x) if decomposed else exported(net, (x,))
    problem = Problem(module, make_loss("cross_entropy"), dtype=torch.float64)
    rows = TensorRows(x, y)
    check_problem(problem, next(rows.batches(5)))
    gradients, hessian = by_plain_autograd(by_hand, x.double(), y)
    for size in (1, 2, 5):
        found = torch.cat([each for _, each in row_gradients(problem, rows, batch_size=size)])
        assert relative(found, gradients) < 1e-9
        assert relative(Hessian(problem, rows, batch_size=size).dense(), hessian) < 1e-9


def _decomposed(net: nn.Module, x: Tensor) -> nn.Module:
    program = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    return program.run_decompositions().module(check_guards=False)


def test_running_statistics_that_are_being_updated_are_still_refused() -> None:
    net = nn.Sequential(nn.Conv1d(2, 3, 2), nn.InstanceNorm1d(3, track_running_stats=True)).train()
    with pytest.raises(TrainingMode):
        Problem(net, make_loss("mse"))


@pytest.mark.parametrize("layer", [nn.Dropout(0.0), nn.AlphaDropout(0.0)])
def test_dropout_with_a_chance_of_0_may_be_exported_in_training_mode(layer: nn.Module) -> None:
    net = nn.Sequential(nn.Linear(4, 4), layer, nn.Linear(4, 3)).train()
    x, y = torch.randn(5, 4), torch.arange(5) % 3
    problem = Problem(exported(net, (x,)), make_loss("cross_entropy"))
    check_problem(problem, next(TensorRows(x, y).batches(5)))
