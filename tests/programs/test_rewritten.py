"""Where torch has a second derivative wrong, or not at all: H of the program is that of the model."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from upweight.export import exported, save_exported
from workers.engine import Batch, Hessian, Problem, TensorRows, check_derivatives, make_loss
from workers.programs.pt2 import Pt2Policy, read_pt2

pytestmark = pytest.mark.filterwarnings("ignore")
STEP = 1e-5


class Net(nn.Module):
    """A layer, the function under test of its output and of a matrix that is a parameter, and a sum."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.layer = nn.Linear(6, 6)
        self.matrix = nn.Parameter(0.4 * torch.randn(6, 6) + torch.eye(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x), self.matrix).flatten(1).sum(1, keepdim=True)


class Filter(nn.Module):
    """A complex filter kept as real pairs, which begin at an odd place among the parameters (GFNet, FNO)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.pairs = nn.Parameter(torch.randn(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        filtered = torch.fft.rfft(x) * torch.view_as_complex(self.pairs)
        return self.scale * torch.fft.irfft(filtered, n=6).tanh()


def _old(layer: nn.Module, dim: int | None = 0) -> nn.Module:
    return nn.utils.weight_norm(layer, dim=dim)


def _new(layer: nn.Module, dim: int | None = 0) -> nn.Module:
    return nn.utils.parametrizations.weight_norm(layer, dim=dim)


NORMED: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Sequential(
        _old(nn.Linear(6, 3)),
        nn.Tanh(),
        _new(nn.Linear(3, 3)),
        nn.Tanh(),
        _new(nn.Linear(3, 2), dim=1),
        nn.Tanh(),
        _new(nn.Linear(2, 2), dim=None),
        nn.Tanh(),
        _old(nn.Linear(2, 2), dim=None),
    ),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 3)),
        _new(nn.Conv1d(2, 2, 2)),
        nn.Tanh(),
        _old(nn.Conv1d(2, 2, 1), dim=1),
        nn.Tanh(),
        _new(nn.ConvTranspose1d(2, 2, 2), dim=2),
        nn.Unflatten(1, (1, 2)),
        nn.Tanh(),
        _new(nn.Conv2d(1, 2, 2), dim=2),
        nn.Flatten(),
    ),
}


def _warp(x: Tensor, m: Tensor) -> Tensor:
    """A spatial transformer."""
    size = [x.shape[0], 1, 3, 3]
    grid = functional.affine_grid(x.view(-1, 2, 3), size, align_corners=False)
    image = m.view(1, 1, 6, 6).expand(x.shape[0], 1, 6, 6)
    return functional.grid_sample(image, grid, padding_mode="border", align_corners=False)


def _bags(x: Tensor, m: Tensor) -> Tensor:
    """All modes of an embedding bag: rows of numbers, and one long row with offsets."""
    bags = functools.partial(functional.embedding_bag, weight=m)
    ids = torch.tensor([[0, 1, 1, 5, 0], [3, 0, 0, 0, 4], [0, 0, 0, 0, 0]])
    offsets = torch.tensor([0, 5, 10])
    found = (
        bags(ids, mode="mean", padding_idx=0),
        bags(ids, mode="max", padding_idx=0),
        bags(ids, mode="sum", per_sample_weights=m[:3, :5]),
        bags(ids.flatten(), offsets=offsets),
        bags(ids.flatten(), offsets=torch.tensor([0, 4, 4, 15]), include_last_offset=True),
    )
    return x @ torch.cat(found).sin().sum(0).diag()


FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hardsigmoid": lambda x, m: functional.hardsigmoid(x) * x,
    "hardswish": lambda x, m: functional.hardswish(x),
    "cdist": lambda x, m: torch.cdist(x, m),
    "cdist of rows": lambda x, m: torch.cdist(x.view(-1, 2, 3), m.view(-1, 3)),
    "cdist, 1": lambda x, m: torch.cdist(x, m, p=1.0) ** 2,
    "cdist, 3": lambda x, m: torch.cdist(x, m, p=3.0),
    "pdist": lambda x, m: x * functional.pdist(m).sum(),
    "warp": _warp,
    "spectrogram": lambda x, m: torch.stft(
        x, 4, 2, window=m[0, :4], center=False, return_complex=True
    ).abs(),
    "matrices": lambda x, m: (
        x @ torch.matrix_exp(m) + torch.linalg.solve(m, x.unsqueeze(-1)).squeeze(-1).tanh()
    ),
    "bags": _bags,
}
MODELS = (
    NORMED | {"filter": Filter} | {name: lambda f=each: Net(f) for name, each in FUNCTIONS.items()}
)


@pytest.mark.parametrize("name", MODELS)
def test_h_is_the_difference_of_the_models_gradients(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    x = torch.randn(5, 6)
    with torch.no_grad():
        y = torch.randn_like(model(x))
    plain = copy.deepcopy(model).double()
    model(x)  # as a trained module has been
    save_exported(exported(model, x), tmp_path / "model.pt2")
    problem = Problem(
        read_pt2(tmp_path / "model.pt2").module, make_loss("mse"), dtype=torch.float64
    )
    found = Hessian(problem, TensorRows(x.double(), y.double())).dense()
    expected = _differences(plain, problem, x.double(), y.double())
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def _differences(model: nn.Module, problem: Problem, x: Tensor, y: Tensor) -> Tensor:
    """Columns of H from first derivatives of the live module alone."""

    def gradient(theta: Tensor) -> Tensor:
        theta = theta.detach().requires_grad_()
        weights = {name: each.clone() for name, each in problem.named(theta).items()}
        outputs = functional_call(model, weights, (x,))
        losses = (outputs - y).square().flatten(1).mean(1)
        return torch.autograd.grad(losses.mean(), theta)[0]

    units = STEP * torch.eye(problem.size, dtype=torch.float64)
    theta = problem.theta
    return torch.stack(
        [(gradient(theta + unit) - gradient(theta - unit)) / (2 * STEP) for unit in units], 1
    )


def test_a_trusted_archive_is_written_out_as_well(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer, x = _new(nn.Linear(4, 3)), torch.randn(4, 4)
    save_exported(exported(layer, x), tmp_path / "model.pt2")
    batch = Batch((x.double(),), torch.randn(4, 3).double(), 0)
    for policy in (Pt2Policy.SANITIZED, Pt2Policy.TRUSTED):
        module = read_pt2(tmp_path / "model.pt2", policy=policy).module
        problem = Problem(module, make_loss("mse"), dtype=torch.float64)
        assert check_derivatives(problem, batch).checked
