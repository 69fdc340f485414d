"""A wrong second derivative is found out before it is used; kinks, detached parts and float32 are none."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from workers.engine import (
    Batch,
    ComplexParameter,
    GradientOfNoLoss,
    Problem,
    WrongDerivative,
    check_derivatives,
    make_loss,
)


class Of(nn.Module):
    """Two layers, the function of what is between them and a matrix."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.first, self.last = nn.Linear(5, 4), nn.Linear(4, 2)
        self.matrix = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x), self.matrix))


def _problem(model: nn.Module, dtype: torch.dtype | None = None) -> tuple[Problem, Batch]:
    x, y = torch.randn(6, 5), torch.randn(6, 2)
    return Problem(model.eval(), make_loss("mse"), dtype=dtype), Batch((x,), y, 0)


def _without_gradients(h: Tensor, matrix: Tensor) -> Tensor:
    with torch.no_grad():
        gate = torch.sigmoid(h @ matrix)
    return gate * h


RIGHT: dict[str, Callable[[], nn.Module]] = {
    "smooth": lambda: Of(lambda h, m: torch.tanh(h @ m)),
    "relu": lambda: Of(lambda h, m: torch.relu(h @ m)),
    "absolute values": lambda: Of(lambda h, m: (h @ m).abs()),
    "largest": lambda: Of(lambda h, m: torch.where((h @ m) > 0, h, -h)),
    "straight through": lambda: Of(lambda h, m: h + (h.sign() - h).detach() + h @ m),
    "detached": lambda: Of(lambda h, m: torch.sigmoid(h @ m).detach() * h),
    "data": lambda: Of(lambda h, m: torch.sigmoid((h @ m).data) * h),
    "no gradients": lambda: Of(_without_gradients),
    "float32 inside": lambda: Of(lambda h, m: torch.tanh((h @ m).float()).to(h.dtype)),
    "linear": lambda: nn.Linear(5, 2),
    "attention": lambda: Of(
        lambda h, m: nn.functional.scaled_dot_product_attention(h[:, None], m[None], m[None])[:, 0]
    ),
}


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_right_derivative_is_no_alarm(name: str, dtype: torch.dtype) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        found = check_derivatives(*_problem(RIGHT[name](), dtype))
        assert found.checked
        assert found.relative_error is not None
        assert found.relative_error < 1e-2


def test_a_row_in_a_kink_is_no_alarm() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    nn.init.zeros_(model[0].bias)
    problem, batch = _problem(model)
    zeros = Batch((torch.zeros(6, 5),), batch.targets, 0)
    check_derivatives(problem, zeros)


@pytest.mark.parametrize("seed", range(3))
def test_weight_norm_of_torch_is_found_and_named(seed: int) -> None:
    torch.manual_seed(seed)
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(5, 4))
    model = nn.Sequential(normed, nn.Tanh(), nn.Linear(4, 2))
    with pytest.raises(WrongDerivative, match=r"module 0\.parametrizations\.weight\.0 \(_Weight"):
        check_derivatives(*_problem(model))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_old_weight_norm_is_found_and_named() -> None:
    torch.manual_seed(0)
    normed = nn.utils.weight_norm(nn.Linear(5, 4))
    model = nn.Sequential(normed, nn.Tanh(), nn.Linear(4, 2))
    with pytest.raises(WrongDerivative, match=r"module 0 \(Linear\)"):
        check_derivatives(*_problem(model))


class Reversed(torch.autograd.Function):
    """The identity, whose gradient is turned round: the gradient of no loss."""

    @staticmethod
    def forward(context: object, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        return -gradient


def test_a_backward_of_its_own_is_found() -> None:
    torch.manual_seed(0)
    with pytest.raises(WrongDerivative):
        check_derivatives(*_problem(Of(lambda h, m: Reversed.apply(torch.tanh(h @ m)))))


def test_an_embedding_that_scales_its_gradient_is_named() -> None:
    model = nn.Sequential(nn.Embedding(5, 3, scale_grad_by_freq=True), nn.Flatten())
    problem, batch = _problem(model)
    with pytest.raises(GradientOfNoLoss, match=r"0 \(Embedding\) has scale_grad_by_freq"):
        check_derivatives(problem, batch)


@pytest.mark.filterwarnings("ignore:Casting complex")
def test_a_complex_parameter_is_named_with_its_type() -> None:
    model = Of(lambda h, m: h)
    model.matrix = nn.Parameter(torch.randn(2, 2, dtype=torch.complex64))
    with pytest.raises(ComplexParameter, match=r"matrix is complex64.*view_as_real"):
        Problem(model.eval(), make_loss("mse"))
