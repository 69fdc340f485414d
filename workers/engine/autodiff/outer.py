"""Products with Σ Jᵢᵀ Sᵢ Jᵢ by torch's own transformations.

J is the derivative of the model's outputs and S the loss's Hessian in them: the Gauss-Newton matrix. Or J is the
gradient of each row's loss, and S is 1: the second moment of gradients. The loops need no forward mode: J v is the
derivative along v of Jᵀ w, which is linear in w. That takes a second derivative of the model's operators, and forward
mode a rule of theirs, which may be missing or wrong: neither is believed unless ⟨w, J v⟩ = ⟨Jᵀ w, v⟩, where Jᵀ w is a
first derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from workers.engine.autodiff.derivative import LinearMap
from workers.engine.errors import BadParameter
from workers.engine.model.losses.per_row import one_tensor
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch

Function = Callable[[Tensor], Tensor]  # of θ
Functions = Callable[[Problem, Batch], tuple[Function, Function]]  # f of θ, and S as a map

# By first derivatives alone: outputs of a row, each of which takes a pass back; rows of a pass; and comparisons of
# ⟨w, J v⟩ with ⟨Jᵀ w, v⟩.
MOST_OUTPUTS = 64
ROWS_OF_A_PASS = 4
COMPARISONS = 3
DRAWN = 1 << 20  # entries of a vector that are drawn at a time


class Pushed:
    """J v of a batch's outputs, or of its losses, by what may lack a rule, or have a wrong one."""

    functions: Functions

    def _push(self, problem: Problem, function: Function) -> Function:
        raise NotImplementedError

    def is_adjoint(
        self, problem: Problem, batch: Batch, bounds: Mapping[torch.dtype, float]
    ) -> bool:
        """Whether J v belongs to the first derivatives Jᵀ w, within these bounds. May raise what the model does."""
        function = type(self).functions(problem, batch.at_least_two())[0]
        push, generator = self._push(problem, function), torch.Generator().manual_seed(0)
        theta = problem.theta.clone().requires_grad_()
        with torch.enable_grad():
            values = function(theta)
        if not values.requires_grad:
            return True
        bound = bounds.get(problem.dtype, max(bounds.values()))

        def drawn(like: Tensor) -> Tensor:
            found = torch.empty(like.shape, dtype=like.dtype, device=like.device)
            for part in found.view(-1).split(DRAWN):  # in float64, a part at a time
                part.copy_(torch.randn(len(part), generator=generator, dtype=torch.float64))
            return found

        for _ in range(COMPARISONS):
            v, w = drawn(theta), drawn(values)
            (back,) = torch.autograd.grad(values, theta, w, retain_graph=True)
            expected, size = float(torch.dot(back, v)), float(back.norm())
            del back  # of a large model there is no memory for it beside what follows
            found = float((push(v) * w).sum())
            # NaN is for the caller to locate.
            if abs(found - expected) > bound * size:
                return False
        return True


class _Loop(Pushed):
    name = "reverse_loop"

    def _push(self, problem: Problem, function: Function) -> Function:
        _, along, pulled, _ = _pulled(problem, function)
        if pulled is None:
            return torch.zeros_like
        return lambda vector: torch.autograd.grad(pulled, along, vector, retain_graph=True)[0]


class _ForwardMode(Pushed):
    name = "forward_reverse"

    def _push(self, problem: Problem, function: Function) -> Function:
        return lambda vector: jvp(function, (problem.theta,), (vector,))[1]


def outputs_of(problem: Problem, batch: Batch) -> tuple[Function, Function]:
    """The model's outputs as a function of θ, and S as a map of their tangents. Raises BadParameter for several."""

    def function(theta: Tensor) -> Tensor:
        return one_tensor(problem.outputs(theta, batch))

    with torch.no_grad():
        at = function(problem.theta)
    if not at.is_floating_point():
        raise BadParameter("outputs", at.dtype, "must be real numbers")
    at.requires_grad_()
    with torch.enable_grad():
        (cotangent,) = torch.autograd.grad(
            problem.loss(at, batch.targets).sum(), at, create_graph=True
        )

    def middle(tangent: Tensor) -> Tensor:
        if not cotangent.requires_grad:  # the loss is linear in the outputs
            return torch.zeros_like(tangent)
        return torch.autograd.grad(cotangent, at, tangent, retain_graph=True)[0]

    return function, middle


def losses_of(problem: Problem, batch: Batch) -> tuple[Function, Function]:
    """The losses of the rows as a function of θ, and 1 as a map."""
    return lambda theta: problem.losses(theta, batch), _same


class GaussNewtonLoop(_Loop):
    """Three backward passes for each vector."""

    functions = staticmethod(outputs_of)

    def prepare(self, problem: Problem, batch: Batch) -> LinearMap:
        """Runs the model on the batch once; the result takes vectors (k, p) to G v, (k, p)."""
        return _of_given(_looped(problem, *outputs_of(problem, batch.at_least_two())), batch)


class GaussNewtonForward(_ForwardMode):
    """Forward mode to the outputs and a pass back, for all vectors at once."""

    functions = staticmethod(outputs_of)

    def prepare(self, problem: Problem, batch: Batch) -> LinearMap:
        """The map of vectors (k, p) to G v, (k, p); every application passes over the batch anew."""
        return _of_given(_forward(problem, *outputs_of(problem, batch.at_least_two())), batch)


class GradientLoop(_Loop):
    """Two backward passes for each vector."""

    functions = staticmethod(losses_of)

    def prepare(self, problem: Problem, batch: Batch) -> LinearMap:
        """Takes the losses of the batch once; the result takes vectors (k, p) to Σ g gᵀ v, (k, p)."""
        return _looped(problem, *losses_of(problem, batch))


class GradientForward(_ForwardMode):
    """Forward mode to the losses and a pass back, for all vectors at once."""

    functions = staticmethod(losses_of)

    def prepare(self, problem: Problem, batch: Batch) -> LinearMap:
        """The map of vectors (k, p) to Σ g gᵀ v, (k, p); every application passes over the batch anew."""
        return _forward(problem, *losses_of(problem, batch))


@dataclass(frozen=True)
class FirstOrder:
    """A pass back for each output of a row, and one for each vector: for models with a first derivative alone."""

    functions: Functions

    name = "first_order"

    def prepare(self, problem: Problem, batch: Batch) -> LinearMap:
        """The map of vectors (k, p) to Jᵀ S J v, (k, p). Raises RuntimeError for many outputs a row."""
        function, middle = self.functions(problem, batch.at_least_two())
        theta = problem.theta.clone().requires_grad_()
        with torch.enable_grad():
            values = function(theta)
        width = values[0].numel()
        if width > MOST_OUTPUTS:
            raise RuntimeError(
                f"{width:,} outputs of a row, of a model that has no second derivative and no forward mode: at most "
                f"{MOST_OUTPUTS} are taken back one by one"
            )

        def apply(vectors: Tensor) -> Tensor:
            result = torch.zeros_like(vectors)
            if not values.requires_grad:  # they do not depend on θ
                return result
            moved = torch.cat(list(self._moved(problem, batch, vectors)), 1)  # (k, B, c)
            if len(moved[0]) < len(values):  # a single row was given twice
                moved = moved.repeat(1, 2, 1)
            for row, tangent in zip(result, moved, strict=True):
                bent = middle(tangent.view(values.shape))
                row.copy_(torch.autograd.grad(values, theta, bent, retain_graph=True)[0])
            return result

        return _of_given(apply, batch) if len(values) > len(batch) else apply

    def _moved(self, problem: Problem, batch: Batch, vectors: Tensor) -> Iterator[Tensor]:
        """J v of a few rows after the other, (k, b, c)."""
        for first in range(0, len(batch), ROWS_OF_A_PASS):
            rows = batch.narrow(first, min(first + ROWS_OF_A_PASS, len(batch)))
            theta = problem.theta.clone().requires_grad_()
            with torch.enable_grad():
                values = self.functions(problem, rows.at_least_two())[0](theta)
            flat = values.flatten(1) if values.ndim > 1 else values[:, None]
            found = vectors.new_empty(len(vectors), len(rows), flat.shape[1])
            for row in range(len(rows)):
                for column in range(flat.shape[1]):
                    (back,) = torch.autograd.grad(flat[row, column], theta, retain_graph=True)
                    found[:, row, column] = vectors @ back
            yield found


def _same(value: Tensor) -> Tensor:
    return value


def _pulled(problem: Problem, function: Function) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """θ, w, Jᵀ w as it depends on w, and the function's values; None where these do not depend on θ."""
    theta = problem.theta.clone().requires_grad_()
    with torch.enable_grad():
        values = function(theta)
        along = torch.zeros_like(values, requires_grad=True)
        pulled = (
            torch.autograd.grad(values, theta, along, create_graph=True)[0]
            if values.requires_grad
            else None
        )
    return theta, along, pulled, values


def _looped(problem: Problem, function: Function, middle: Function) -> LinearMap:
    theta, along, pulled, values = _pulled(problem, function)

    def apply(vectors: Tensor) -> Tensor:
        result = torch.zeros_like(vectors)
        if pulled is None:  # the values do not depend on θ
            return result
        for row, vector in zip(result, vectors, strict=True):
            (moved,) = torch.autograd.grad(pulled, along, vector, retain_graph=True)
            row.copy_(torch.autograd.grad(values, theta, middle(moved), retain_graph=True)[0])
        return result

    return apply


def _forward(problem: Problem, function: Function, middle: Function) -> LinearMap:
    def apply(vectors: Tensor) -> Tensor:
        moved = vmap(lambda vector: jvp(function, (problem.theta,), (vector,))[1])(vectors)
        bent = torch.stack([middle(each) for each in moved])
        back = vjp(function, problem.theta)[1]
        found: Tensor = vmap(lambda each: back(each)[0])(bent)
        return found

    return apply


def _of_given(apply: LinearMap, batch: Batch) -> LinearMap:
    """A single row was given twice, and counts once."""
    return apply if len(batch) > 1 else lambda vectors: apply(vectors) / 2
