"""Model, loss and selected parameters as functions of one flat vector θ."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import escape
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from workers.engine.dtypes import Following, needs_following
from workers.engine.errors import (
    BadParameter,
    ComplexParameter,
    NoSuchParameter,
    NotFinite,
    NothingTrains,
    ShapeMismatch,
    TrainingMode,
)
from workers.engine.finite import refuse_nonfinite_losses, refuse_nonfinite_rows
from workers.engine.gradients import GradientLadder
from workers.engine.independence import RowTest, Tensors
from workers.engine.losses import Loss, Program
from workers.engine.program import first_output, observable, prepared
from workers.engine.rows import Batch
from workers.engine.second_order import explained, twice_differentiable

Found = TypeVar("Found")
_ALIGNED_BYTES = 64  # as torch lays out what it makes
_DOUBLED_BYTES = 512 * 1024**2  # weights above are not held once more, in float64


@dataclass(frozen=True)
class ParameterSlice:
    """Where one parameter lies in θ: θ[offset : offset + size], row-major, of this shape."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(torch.Size(self.shape).numel())


class Problem:
    """The loss of each row as a function of θ, the selected parameters laid end to end.

    `parameters` are globs over `named_parameters()`, by default the parameters with `requires_grad`;
    the others are held fixed. Tied weights are one parameter under their first name. `dtype` and
    `device` default to the model's. The model is copied; it must be in eval mode.

    Raises ComplexParameter, NoSuchParameter, NothingTrains, TrainingMode, NotFinite.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        parameters: Sequence[str] | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.loss = loss
        self.module = prepared(module, dtype, device)
        named = dict(self.module.named_parameters())
        names = _all_names(self.module)
        selected = _trained(module, names) if parameters is None else _select(names, parameters)
        _refuse_other_numbers(module, selected)
        self.layout = _layout({name: named[name] for name in selected})
        self.frozen = {
            name: value.detach() for name, value in named.items() if name not in selected
        }
        self._sizes = [each.size for each in self.layout]
        self.theta = torch.cat([named[name].detach().reshape(-1) for name in selected])  # (p,)
        self._called = self.module  # or, while it is watched, what shows its inside
        # What it was stored as decides: its copy is in one type already, and its casts are in its code.
        self._following = (
            Following(self.dtype) if needs_following(module, self.theta.dtype) else None
        )
        self._ladder = GradientLadder()
        self._found: dict[Hashable, Any] = {}

    def once(self, what: Hashable, find: Callable[[], Found]) -> Found:
        """What `find` finds out about the model, the first time that it is asked for."""
        if what not in self._found:
            self._found[what] = find()
        found: Found = self._found[what]
        return found

    @property
    def size(self) -> int:
        """p, the number of selected parameters."""
        return self.theta.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Of θ and of everything computed."""
        return self.theta.dtype

    @property
    def device(self) -> torch.device:
        """Where θ lies and rows are expected."""
        return self.theta.device

    def in_double(self) -> Problem:
        """The same in float64: weights as they are, so that only the rounding of sums is less."""
        names = [escape(each.name) for each in self.layout]
        return Problem(self.module, self.loss, names, dtype=torch.float64)

    def named(self, theta: Tensor) -> dict[str, Tensor]:
        """The selected parameters as views of θ."""
        # One split rather than slices: its backward is one concatenation, not one (p,) a parameter.
        pieces = torch.split(theta, self._sizes)
        return {
            each.name: piece.view(each.shape)
            for each, piece in zip(self.layout, pieces, strict=True)
        }

    @property
    def gradient_way(self) -> str:
        """How per-example gradients are taken, as found out on the first batch."""
        return self._ladder.way

    def placed(self, batch: Batch) -> Batch:
        """The batch on our device, floating-point tensors in our dtype."""
        targets = tuple(self._place(each) for each in batch.target_tensors)
        single = batch.targets is None or isinstance(batch.targets, Tensor)
        return Batch(
            tuple(self._place(each) for each in batch.inputs),
            (targets[0] if targets else None) if single else targets,
            batch.start,
        )

    def _place(self, value: Tensor) -> Tensor:
        dtype = self.dtype if value.is_floating_point() else value.dtype
        placed = value.to(device=self.device, dtype=dtype, non_blocking=True)
        # Products round otherwise where rows lie otherwise, and a batch may begin anywhere in the rows that are held.
        return placed if placed.data_ptr() % _ALIGNED_BYTES == 0 else placed.clone()

    def outputs(self, theta: Tensor, batch: Batch) -> object:
        """What the model returns for these rows."""
        arguments = batch.inputs
        if isinstance(self.loss, Program):
            arguments = (*arguments, *batch.target_tensors)
        weights = {**self.frozen, **self.named(theta)}
        with self._following or nullcontext():
            return first_output(functional_call(self._called, weights, arguments))

    def losses(self, theta: Tensor, batch: Batch, outputs: object = None) -> Tensor:
        """(B,) losses at θ, differentiable in θ and in the inputs; the batch must be `placed`.

        `outputs`: what the model returns for these rows, where that is known already.
        """
        try:
            found = self.outputs(theta, batch) if outputs is None else outputs
            losses = self.loss(found, batch.targets)
        except (ShapeMismatch, IndexError):
            if len(batch) != 1:
                raise
            # A model that squeezes its output loses the row's axis when there is one row only.
            return self.losses(theta, doubled(batch))[:1]
        if losses.shape != (len(batch),):
            raise ShapeMismatch("losses of a batch", (len(batch),), losses.shape)
        return losses

    def gradients(self, batch: Batch, *, chunk: int | None = None) -> Tensor:
        """(B, p) gradients of each row's loss, `chunk` rows at a time. Raises NotFinite."""
        batch = self.placed(batch)
        size = chunk or len(batch)
        pieces = [
            self._ladder.gradients(self, batch.narrow(first, min(first + size, len(batch))))
            for first in range(0, len(batch), size)
        ]
        gradients = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        if bool(
            torch.isfinite(gradients.sum())
        ):  # no mask in memory; one that overflows is looked into
            return gradients
        finite = torch.isfinite(gradients).all(1)
        if not bool(finite.all()):
            row = batch.start + int((~finite).nonzero()[0, 0])
            raise NotFinite("the gradient of the loss", row=row)
        return gradients

    def watch(self, name: str, change: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        """Apply `change` to the output of the inner module `name`; call the result to stop.

        One at a time. Raises NoSuchParameter for an unknown module.
        """
        self._called, place = self.once(("seen", name), lambda: observable(self.module, name))
        handle = place.register_forward_hook(lambda _module, _arguments, output: change(output))

        def stop() -> None:
            handle.remove()
            self._called = self.module

        return stop

    def check(self, batch: Batch) -> None:
        """Forward, backward and second derivative on an example batch, with precise refusals.

        Raises NotFinite (naming the row), ShapeMismatch, BadParameter (targets), TrainingMode for
        a random forward pass, RowsMixed, UnsupportedOperator for a missing derivative.
        """
        batch = self.placed(batch)
        refuse_nonfinite_rows(batch)
        with twice_differentiable(), torch.no_grad():
            outputs = self.outputs(self.theta, batch)
            self.loss.check(outputs, batch.targets)
            losses = self.losses(self.theta, batch)
            again = self.losses(self.theta, batch)
            if not bool(((losses == again) | (losses.isnan() & again.isnan())).all()):
                raise TrainingMode("the forward pass is random: something in the model")
        self._check_rows_in_double(batch)
        refuse_nonfinite_losses(losses, batch)
        self._check_derivatives(batch.narrow(0, min(2, len(batch))))

    def refuse_mixed_rows(self, batch: Batch, *, elsewhere: bool = True) -> None:
        """Each row beside different ones, in its place; `elsewhere`: in other orders and batch sizes too.

        The batch has few rows that differ, at least two. Raises RowsMixed.
        """
        batch = self.placed(batch)
        rows = (*batch.inputs, *batch.target_tensors)

        def again(tensors: Tensors) -> Batch:
            goals = tensors[len(batch.inputs) :]
            targets = goals[0] if isinstance(batch.targets, Tensor) else (goals or None)
            return Batch(tensors[: len(batch.inputs)], targets, 0)

        def evaluate(tensors: Tensors) -> Tensors:
            given = again(tensors)
            with torch.no_grad():
                outputs = self.outputs(self.theta, given)
                losses = self.losses(self.theta, given, outputs)
            if isinstance(outputs, Tensor) and outputs.shape[:1] == losses.shape:
                return losses, outputs
            return (losses,)

        def gradient(tensors: Tensors, weights: Tensor) -> Sequence[Tensor]:
            theta = self.theta.clone().requires_grad_()
            losses = self.losses(theta, again(tensors))
            kept = weights.to(device=losses.device, dtype=losses.dtype)
            (found,) = torch.autograd.grad((kept * losses).sum(), theta)
            return torch.split(found, self._sizes)

        arguments = len(rows) if isinstance(self.loss, Program) else len(batch.inputs)
        test = RowTest(evaluate, self.module, arguments, gradient)
        with twice_differentiable():
            test.beside_others(rows)
            if elsewhere:
                test.elsewhere(rows)
            with torch.enable_grad():
                test.in_gradients(rows)

    def _check_rows_in_double(self, batch: Batch) -> None:
        """In float64, where rounding can neither hide what rows do to each other nor look like it."""
        problem = self
        if self.theta.nbytes + sum(each.nbytes for each in self.frozen.values()) < _DOUBLED_BYTES:
            with suppress(RuntimeError, TypeError, ValueError), twice_differentiable():
                double = self.in_double()
                with torch.no_grad():
                    double.losses(double.theta, double.placed(batch))
                problem = double
        problem.refuse_mixed_rows(batch)

    def _check_derivatives(self, batch: Batch) -> None:
        self.gradients(batch)
        theta = self.theta.clone().requires_grad_()
        try:
            with twice_differentiable(), torch.enable_grad():
                total = self.losses(theta, batch).sum()
                (gradient,) = torch.autograd.grad(total, theta, create_graph=True)
                if gradient.requires_grad:
                    torch.autograd.grad(gradient.sum(), theta)
        except RuntimeError as error:
            raise explained(error, "differentiating the loss twice") from error


def doubled(batch: Batch) -> Batch:
    """The batch with each of its rows given twice."""
    targets = tuple(torch.cat([each, each]) for each in batch.target_tensors)
    single = isinstance(batch.targets, Tensor)
    return Batch(
        tuple(torch.cat([each, each]) for each in batch.inputs),
        targets[0] if single else (targets or None),
        batch.start,
    )


def _all_names(module: nn.Module) -> dict[str, list[str]]:
    """Each parameter's first name, with all the names it has: several where it is tied."""
    first: dict[nn.Parameter, str] = {}
    names: dict[str, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(first.setdefault(parameter, name), []).append(name)
    return names


def _trained(module: nn.Module, names: dict[str, list[str]]) -> list[str]:
    """First names of the parameters that require gradients, in the model's order."""
    flags = {
        name: each.requires_grad for name, each in module.named_parameters(remove_duplicate=False)
    }
    trained = [first for first, every in names.items() if any(flags[name] for name in every)]
    if not trained:
        raise NothingTrains(list(names))
    return trained


def _select(names: dict[str, list[str]], globs: Sequence[str]) -> list[str]:
    """First names of the parameters any of whose names match, in the model's order."""
    chosen: set[str] = set()
    for glob in globs:
        matching = {
            first
            for first, every in names.items()
            if any(fnmatchcase(each, glob) for each in every)
        }
        if not matching:
            raise NoSuchParameter(glob, list(names))
        chosen |= matching
    if not chosen:
        raise BadParameter("parameters", tuple(globs), "at least one glob, such as *")
    return [name for name in names if name in chosen]


def _refuse_other_numbers(module: nn.Module, selected: Sequence[str]) -> None:
    given = dict(module.named_parameters(remove_duplicate=False))
    for name in selected:
        if given[name].is_complex():
            raise ComplexParameter(name, given[name].dtype)
        if not given[name].is_floating_point():
            dtype = str(given[name].dtype).removeprefix("torch.")
            raise BadParameter(
                "parameters",
                name,
                f"it is of {dtype}, which has no derivative; give globs that leave it out",
            )


def _layout(named: dict[str, Tensor]) -> tuple[ParameterSlice, ...]:
    slices, offset = [], 0
    for name, value in named.items():
        slices.append(ParameterSlice(name, tuple(value.shape), offset))
        offset += value.numel()
    return tuple(slices)
