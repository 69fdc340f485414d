"""Whether autograd's second derivative is right for a model: one product with H against differences of gradients.

For models whose operators are not known. torch has operators with a wrong double backward; H is then no Hessian, and
influences would come out wrong without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from workers.engine.errors import GradientOfNoLoss, WrongDerivative
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch
from workers.engine.model.second_order import is_out_of_memory, twice_differentiable

ROWS = 2
DIRECTIONS = 3
# Relative to θ's size. Kinks spoil long steps, rounding short ones: two that agree are believed.
STEPS = (1e-4, 1e-5, 1e-3, 1e-6, 1e-2)
CONDITIONED = 1e-3  # differences by two steps agree to this, or neither is believed
AGREEMENT = 1e-4  # of the product with a difference, at best
MARGIN = 10.0  # times by how much the differences disagree among themselves
FLOOR = 1e-6  # of the gradient: curvature below it is rounding

Gradient = Callable[
    [Tensor], Tensor
]  # (p,) at a point; differentiable itself when grad is asked for


@dataclass(frozen=True)
class DerivativeCheck:
    """What came out. `reason` says why nothing could be compared."""

    checked: bool
    relative_error: float | None = None
    reason: str | None = None

    def as_info(self) -> dict[str, Any]:
        """The fields that are not None, as a job's info has them."""
        return {name: each for name, each in asdict(self).items() if each is not None}


VERIFIED = DerivativeCheck(False, reason="operators verified")
NOT_TAKEN = DerivativeCheck(
    False, reason="this job takes no second derivative of the model, and none was compared"
)


def check_derivatives(problem: Problem, batch: Batch, *, twice: bool = True) -> DerivativeCheck:
    """Compares on a few rows, in float64 where the model takes it; nothing where it is not differentiated `twice`.

    Raises WrongDerivative, naming the module where one can be made out, and GradientOfNoLoss for an embedding that
    scales its gradient.
    """
    _refuse_scaled_gradients(problem.module)
    if not twice:
        return NOT_TAKEN
    batch = batch.narrow(0, min(ROWS, len(batch)))
    try:
        return _checked(problem.in_double(), batch)
    except (
        RuntimeError
    ) as error:  # of a model with parts in float32 alone, or that knows no second derivative
        if is_out_of_memory(error):
            return DerivativeCheck(False, reason="a copy in float64 does not fit into memory")
    try:
        return _checked(problem, batch)
    except RuntimeError as error:
        return DerivativeCheck(False, reason=str(error).strip().partition("\n")[0][:200])


def _checked(problem: Problem, batch: Batch) -> DerivativeCheck:
    placed = problem.placed(batch)
    held = Held()

    def loss(theta: Tensor) -> Tensor:
        with held.replayed():
            return problem.losses(theta, placed).mean()

    error = _error(loss, problem.theta)
    if error is None:
        return DerivativeCheck(False, reason="the gradient is not smooth here")
    if error.wrong:
        raise WrongDerivative(_wrong_module(problem, placed), error.relative)
    return DerivativeCheck(True, relative_error=error.relative)


@dataclass(frozen=True)
class Error:
    """A product's error, relative to the difference of gradients; `wrong` where that can't be rounding."""

    relative: float
    wrong: bool


def _error(loss: Callable[[Tensor], Tensor], point: Tensor) -> Error | None:
    """The best of several directions, None where in none of them two steps agree."""
    generator = torch.Generator().manual_seed(0)
    scale = float(point.double().square().mean().sqrt()) or 1.0
    found: list[Error] = []
    with twice_differentiable(), torch.enable_grad():
        for _ in range(DIRECTIONS):
            drawn = torch.randn(point.shape, generator=generator, dtype=torch.float64)
            error = _along(loss, point, (scale * drawn).to(point))
            if error is not None and not error.wrong:
                return error
            found += [error] if error is not None else []
    return min(found, key=lambda each: each.relative, default=None)


def _along(loss: Callable[[Tensor], Tensor], point: Tensor, direction: Tensor) -> Error | None:
    start = point.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(start), start, create_graph=True)
    product = torch.zeros_like(start)
    if slope.requires_grad:
        (product,) = torch.autograd.grad(slope, start, direction)
    floor = FLOOR * float(slope.detach().norm())
    earlier: list[Tensor] = []
    best: Error | None = None
    for step in STEPS:
        here = _difference(loss, point, direction, step)
        size = max(float(here.norm()), float(product.norm()), floor)
        if size == 0.0:
            return Error(0.0, wrong=False)
        spread = min((float((here - each).norm()) / size for each in earlier), default=1.0)
        earlier.append(here)
        if not spread <= CONDITIONED:
            continue
        gap = float((here - product).norm()) / size
        error = Error(gap, wrong=not gap <= max(AGREEMENT, MARGIN * spread))
        if not error.wrong:
            return error
        best = error if best is None or error.relative < best.relative else best
    return best


def _difference(
    loss: Callable[[Tensor], Tensor], point: Tensor, direction: Tensor, step: float
) -> Tensor:
    gradients = []
    for sign in (1, -1):
        there = (point + sign * step * direction).detach().requires_grad_()
        gradients.append(torch.autograd.grad(loss(there), there)[0])
    difference: Tensor = (gradients[0] - gradients[1]) / (2 * step)
    return difference


class Held:
    """What a model detaches, or computes without gradients, is a constant to it: the same in every later pass."""

    def __init__(self) -> None:
        self._kept: list[Any] = []
        self._first = True

    def replayed(self) -> TorchFunctionMode:
        """A mode for one pass; the first one records."""
        mode = _Replaying(self._kept, record=self._first)
        self._first = False
        return mode


class _Replaying(TorchFunctionMode):
    _DETACHING = (Tensor.detach, torch.detach, Tensor.data.__get__)  # type: ignore[attr-defined]

    def __init__(self, kept: list[Any], *, record: bool) -> None:
        super().__init__()
        self._kept, self._record, self._next = kept, record, 0

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        held = function in self._DETACHING or not torch.is_grad_enabled()
        if not held or not isinstance(result, Tensor):
            return result
        if self._record:
            self._kept.append(result.detach().clone())
            return result
        if self._next >= len(self._kept) or self._kept[self._next].shape != result.shape:
            raise RuntimeError("the model does not compute the same steps each time")
        self._next += 1
        return self._kept[self._next - 1]


def _wrong_module(problem: Problem, batch: Batch) -> str | None:
    """The innermost module whose own second derivative is wrong: its path and type."""
    calls: dict[str, tuple[Any, ...]] = {}
    names = {id(each): name for name, each in problem.module.named_modules()}

    def seen(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        calls.setdefault(names[id(module)], arguments)

    handles = [each.register_forward_pre_hook(seen) for each in problem.module.modules()]
    try:
        with torch.no_grad(), twice_differentiable():
            problem.outputs(problem.theta, batch)
    finally:
        for handle in handles:
            handle.remove()
    for name in sorted(calls, key=lambda each: -each.count(".") if each else 1):
        module = problem.module.get_submodule(name)
        if name and _is_wrong(module, calls[name]):
            return f"{name} ({type(module).__name__})"
    return None


def _is_wrong(module: nn.Module, arguments: Sequence[Any]) -> bool:
    parameters = dict(module.named_parameters())
    at = [i for i, each in enumerate(arguments) if _is_real(each)]
    leaves = [*parameters.values(), *(arguments[i] for i in at)]
    if not leaves:
        return False
    point = torch.cat([each.detach().reshape(-1) for each in leaves])
    held, weights = Held(), list[Tensor]()

    def loss(given: Tensor) -> Tensor:
        pieces = given.split([each.numel() for each in leaves])
        shaped = [piece.view(each.shape) for piece, each in zip(pieces, leaves, strict=True)]
        own = dict(zip(parameters, shaped, strict=False))
        inputs = list(arguments)
        for i, each in zip(at, shaped[len(parameters) :], strict=True):
            inputs[i] = each
        with held.replayed():
            results = list(_tensors(functional_call(module, own, tuple(inputs))))
        if not weights:
            generator = torch.Generator().manual_seed(1)
            weights.extend(
                torch.randn(each.shape, generator=generator, dtype=torch.float64).to(each)
                for each in results
            )
        squares = (
            (a * each + each.square()).sum() for a, each in zip(weights, results, strict=True)
        )
        return sum(squares, given.square().sum())

    try:
        error = _error(loss, point)
    except (
        RuntimeError,
        TypeError,
        ValueError,
    ):  # it takes other than tensors, or is none of torch's
        return False
    return error is not None and error.wrong


def _tensors(value: Any) -> Iterator[Tensor]:
    if _is_real(value):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _refuse_scaled_gradients(module: nn.Module) -> None:
    for name, each in module.named_modules():
        if isinstance(each, nn.Embedding | nn.EmbeddingBag):
            for flag, default in (
                ("scale_grad_by_freq", False),
                ("sparse", False),
                ("max_norm", None),
            ):
                if getattr(each, flag) is not default and getattr(each, flag):
                    raise GradientOfNoLoss(f"{name} ({type(each).__name__})", flag, default)
