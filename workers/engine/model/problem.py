"""Model, loss and selected parameters as functions of one flat vector θ."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from glob import escape
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from workers.engine.errors import (
    ShapeMismatch,
)
from workers.engine.model.dtypes import Following, needs_following
from workers.engine.model.losses import Loss, ProgramLoss
from workers.engine.model.losses.weighted import Unweighted, Weighted
from workers.engine.model.parameters import (
    all_names,
    layout_of,
    refuse_other_numbers,
    select,
    trained,
)
from workers.engine.model.rows import Batch, Rows
from workers.engine.model.wrapping import first_output, observable, prepared

Found = TypeVar("Found")
_ALIGNED_BYTES = 64  # as torch lays out what it makes


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
        names = all_names(self.module)
        selected = trained(module, names) if parameters is None else select(names, parameters)
        refuse_other_numbers(module, selected)
        self.layout = layout_of({name: named[name] for name in selected})
        self.frozen = {
            name: value.detach() for name, value in named.items() if name not in selected
        }
        self._sizes = [each.size for each in self.layout]
        self.theta = torch.cat([named[name].detach().reshape(-1) for name in selected])  # (p,)
        for each in self.layout:  # the copy is ours: its weights are there once, in θ
            own = self.theta[each.offset : each.offset + each.size]
            named[each.name].data = own.view(each.shape)
        self._called = self.module  # or, while it is watched, what shows its inside
        # What it was stored as decides: its copy is in one type already, and its casts are in its code.
        self._following = (
            Following(self.dtype) if needs_following(module, self.theta.dtype) else None
        )
        self._found: dict[Hashable, Any] = {}
        # (p,) the factors of an L2 term, Σ factor/2 θ², of the training objective; no row's loss has it.
        self.penalty: Tensor | None = None

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
        """The type of θ and of everything computed."""
        return self.theta.dtype

    @property
    def device(self) -> torch.device:
        """The device that θ lies on and rows are moved to."""
        return self.theta.device

    def in_double(self) -> Problem:
        """The same problem in float64: weights as they are, so that only the rounding of sums is less."""
        names = [escape(each.name) for each in self.layout]
        double = Problem(self.module, self.loss, names, dtype=torch.float64)
        return double.with_penalty(self.penalty)

    def at(self, theta: Tensor) -> Problem:
        """The same model and loss at other values (p,) of the selected parameters."""
        other = copy.copy(self)
        other.theta, other._found = theta.to(self.device, self.dtype), {}
        return other

    def with_loss(self, loss: Loss) -> Problem:
        """The same model and parameters with another loss."""
        if loss == self.loss:
            return self
        other = copy.copy(self)
        other.loss, other._found = loss, {}
        return other

    def with_penalty(self, penalty: Tensor | None) -> Problem:
        """The same problem whose training objective has an L2 term with these factors (p,)."""
        other = copy.copy(self)
        other.penalty = None if penalty is None else penalty.to(self.device, self.dtype)
        return other

    @property
    def plain(self) -> Problem:
        """The same without weights of rows, for rows that have none."""
        return self.with_loss(self.loss.loss) if isinstance(self.loss, Weighted) else self

    def unweighted(self, rows: Rows) -> Rows:
        """The rows as `plain` takes them."""
        return Unweighted(rows) if isinstance(self.loss, Weighted) else rows

    @property
    def follows(self) -> bool:
        """Whether types are followed while the model runs."""
        return self._following is not None

    def lead(self, module: nn.Module) -> None:
        """Computes with a part of the model from here on, which has all selected parameters and is in their type."""
        names = {name for name, _ in module.named_parameters()}
        self.module = self._called = module
        self._following = None
        self.frozen = {name: each for name, each in self.frozen.items() if name in names}
        self._found = {}

    def named(self, theta: Tensor) -> dict[str, Tensor]:
        """The selected parameters as views of θ."""
        # One split rather than slices: its backward is one concatenation, not one (p,) a parameter.
        pieces = torch.split(theta, self._sizes)
        return {
            each.name: piece.view(each.shape)
            for each, piece in zip(self.layout, pieces, strict=True)
        }

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
        return self.outputs_of(self.named(theta), batch)

    def outputs_of(self, values: dict[str, Tensor], batch: Batch) -> object:
        """The same problem at these values of the selected parameters."""
        arguments = batch.inputs
        if isinstance(self.loss, ProgramLoss):
            arguments = (*arguments, *batch.target_tensors)
        weights = {**self.frozen, **values}
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
            return self.losses(theta, batch.doubled())[:1]
        if losses.shape != (len(batch),):
            raise ShapeMismatch("losses of a batch", (len(batch),), losses.shape)
        return losses

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
