"""Every operator that programs may use: its second derivative is the difference of first ones, and symmetric."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from tests.programs.samples import NOT_DIFFERENTIABLE, SAMPLES, Fixed, Made
from workers.engine.model.second_order import twice_differentiable
from workers.programs.fitting import fitting
from workers.programs.operators import ALLOWED, FIRST_ALONE, resolve
from workers.programs.rewritten import REWRITTEN

STEP = 1e-5
pytestmark = pytest.mark.filterwarnings("ignore")
# The row of the padding index is a constant to torch, as it is meant to be.
CONSTANT_BY_INTENT = {"embedding"}


def test_every_allowed_operator_has_a_sample_or_a_reason() -> None:
    assert SAMPLES.keys() | NOT_DIFFERENTIABLE == ALLOWED
    assert not SAMPLES.keys() & NOT_DIFFERENTIABLE
    assert all(SAMPLES.values())


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_second_derivative_is_right(name: str) -> None:
    for args, kwargs in SAMPLES[name]:
        with twice_differentiable():
            _compare(Sampled(name, args, kwargs))


@pytest.mark.parametrize("name", sorted(REWRITTEN))
def test_what_is_rewritten_has_the_operators_values(name: str) -> None:
    for args, kwargs in SAMPLES[name]:
        ours, torchs = Sampled(name, args, kwargs), Sampled(name, args, kwargs)
        torchs.function = getattr(torch.ops.aten, name)
        torch.testing.assert_close(ours.loss(ours.point), torchs.loss(torchs.point))


def test_a_wrong_second_derivative_is_seen() -> None:
    sampled = Sampled("_weight_norm", (torch.randn(3, 4).double(), torch.randn(3, 1).double()), {})
    sampled.function = torch._weight_norm
    with pytest.raises(AssertionError, match="second derivative"):
        _compare(sampled)


class Sampled:
    """A call as a real function of the real tensors in it, laid end to end: Σ x² + Σ a·o + b·o² over its results o."""

    def __init__(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.name = name
        self.function: Any = self._called
        self._flat, self._tree = pytree.tree_flatten((args, kwargs))
        self._at = [i for i, each in enumerate(self._flat) if _is_real(each)]
        leaves = [_leaf(self._flat[i]) for i in self._at]
        self._shapes = [each.shape for each in leaves]
        self.point = torch.cat([each.reshape(-1) for each in leaves])
        self._draw = torch.Generator().manual_seed(1)
        self._weights: list[Tensor] = []

    def _called(self, *args: Any, **kwargs: Any) -> Any:
        overload = torch._C._jit_resolve_packet(f"aten::{self.name}", *args, **kwargs)
        return fitting(resolve(f"torch.ops.aten.{self.name}.{overload}"))(*args, **kwargs)

    def loss(self, point: Tensor) -> Tensor:
        pieces = point.split([each.numel() for each in self._shapes])
        flat = [each.value if isinstance(each, Fixed) else each for each in self._flat]
        for i, piece, shape in zip(self._at, pieces, self._shapes, strict=True):
            given = piece.view(shape)
            flat[i] = flat[i].make(given) if isinstance(flat[i], Made) else given
        args, kwargs = pytree.tree_unflatten(flat, self._tree)
        total = point.square().sum()  # so that there is something to differentiate in any case
        for number, result in enumerate(self._results(self.function(*args, **kwargs))):
            if number == len(self._weights):
                drawn = torch.randn((2, *result.shape), generator=self._draw, dtype=torch.float64)
                self._weights.append(drawn)
            linear, square = self._weights[number]
            total = total + (linear * result + square * result.square()).sum()
        return total

    def _results(self, returned: Any) -> list[Tensor]:
        tensors = [each for each in pytree.tree_leaves(returned) if isinstance(each, Tensor)]
        tensors = tensors[:1] if self.name in FIRST_ALONE else tensors
        real = [
            torch.view_as_real(each.resolve_conj()) if each.is_complex() else each
            for each in tensors
        ]
        return [each for each in real if each.is_floating_point()]

    def gradient(self, point: Tensor) -> Tensor:
        point = point.detach().requires_grad_()
        return torch.autograd.grad(self.loss(point), point)[0]

    def product(self, vector: Tensor) -> Tensor:
        point = self.point.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.loss(point), point, create_graph=True)
        (product,) = torch.autograd.grad(gradient @ vector, point)
        return product

    def vector(self) -> Tensor:
        return torch.randn(self.point.shape, generator=self._draw, dtype=torch.float64)


def _compare(sampled: Sampled) -> None:
    v, u = sampled.vector(), sampled.vector()
    ahead, behind = sampled.point + STEP * v, sampled.point - STEP * v
    slope = (sampled.loss(ahead) - sampled.loss(behind)) / (2 * STEP)
    gradient = sampled.gradient(sampled.point)
    if sampled.name not in CONSTANT_BY_INTENT:
        _close(gradient @ v, slope, gradient, f"{sampled.name}: the first derivative")
    difference = (sampled.gradient(ahead) - sampled.gradient(behind)) / (2 * STEP)
    product = sampled.product(v)
    _close(product, difference, difference, f"{sampled.name}: the second derivative")
    other = sampled.product(u) @ v
    _close(product @ u, other, product, f"{sampled.name}: the symmetry of the second derivative")


def _close(found: Tensor, expected: Tensor, scale: Tensor, what: str) -> None:
    gap = float((found - expected).abs().max())
    assert gap <= 1e-6 * float(scale.abs().max()) + 1e-9, f"{what} is off by {gap}"


def _is_real(value: Any) -> bool:
    return isinstance(value, Made) or (isinstance(value, Tensor) and value.is_floating_point())


def _leaf(value: Any) -> Tensor:
    return value.leaf if isinstance(value, Made) else value
