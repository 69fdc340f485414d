"""Whether rows see each other: what a model gives for a row must not change when other rows take the others' places.

A row whose loss depends on the rest of its batch has no influence of its own: its numbers would be those of the batch
sizes that a job happens to use. So each row is computed beside different ones, in another order and in other batch
sizes, and whatever differs is refused, with the node of the graph in which rows first meet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, fx, nn

from workers.engine.errors import RowsMixed
from workers.engine.model.wrapping import first_output, modules_of

Tensors = tuple[Tensor, ...]
Evaluate = Callable[[Tensors], Tensors]

# Beside other rows, in a batch of the same size and in the same place, a row is computed by the same kernels, to the
# same bits as a rule. (Of a row's own largest number, of the largest of all rows.)
_SAME_PLACE = {torch.float64: (1e-9, 1e-12), torch.float32: (1e-5, 1e-6)}
# In another place or batch size, sums are taken in another order. Of the largest number of all rows.
_ELSEWHERE = {torch.float64: 1e-6, torch.float32: 5e-3}
_COARSE = 5e-2
BATCH_SIZES = (1, 2, 3)  # that rows are tried in, elsewhere


@dataclass(frozen=True)
class RowTest:
    """A model as a function of rows. `evaluate` gives tensors whose first axis is the row, for rows of any number.

    `gradient(rows, weights)` is that of the weighted sum of the rows' losses, a tensor for each parameter. `module`
    is called as `module(*rows[:arguments])`: it is looked into where rows turn out to see each other.
    """

    evaluate: Evaluate
    module: nn.Module
    arguments: int
    gradient: Callable[[Tensors, Tensor], Sequence[Tensor]] | None = None

    def beside_others(self, rows: Tensors) -> None:
        """Each row in its place, with others beside it. Raises RowsMixed."""
        found = self.evaluate(rows)
        for kept in _parts(len(rows[0])):
            changed = _replaced(rows, kept)
            if not all(
                _same(one[kept], other[kept], *_SAME_PLACE.get(one.dtype, (_COARSE, _COARSE)))
                for one, other in zip(found, self.evaluate(changed), strict=False)
            ):
                raise self._blamed("output", rows, changed, kept)

    def elsewhere(self, rows: Tensors) -> None:
        """The rows in another order, alone, and in batches of other sizes. Raises RowsMixed."""
        found, count = self.evaluate(rows), len(rows[0])
        order = torch.arange(count - 1, -1, -1).roll(1)
        self._compare(found, rows, order)
        for size in BATCH_SIZES:
            for first in range(0, count, size):
                self._compare(found, rows, torch.arange(first, min(first + size, count)))

    def _compare(self, found: Tensors, rows: Tensors, chosen: Tensor) -> None:
        moved = tuple(each[chosen.to(each.device)] for each in rows)
        for one, other in zip(found, self.evaluate(moved), strict=False):
            expected = one[chosen.to(one.device)]
            if expected.shape == other.shape and _same(
                expected, other, 0.0, _ELSEWHERE.get(one.dtype, _COARSE), like=one
            ):
                continue
            if len(chosen) == len(rows[0]):
                every = torch.ones(len(chosen), dtype=torch.bool)
                raise self._blamed("output", moved, rows, every, chosen)
            raise RowsMixed("output")

    def in_gradients(self, rows: Tensors) -> None:
        """The gradient of some rows' losses, with others beside them. Raises RowsMixed."""
        if self.gradient is None:
            return
        for kept in islice(_parts(len(rows[0])), 2):
            # Weights that differ, so that what one row gives to another does not cancel.
            weights = torch.where(kept, 1.0 + 0.25 * torch.arange(len(kept)), 0.0)
            one, other = (self.gradient(each, weights) for each in (rows, _replaced(rows, kept)))
            if not all(bool(torch.isfinite(each).all()) for each in (*one, *other)):
                continue
            largest = max((float(each.abs().max()) for each in one if each.numel()), default=0.0)
            for mine, theirs in zip(one, other, strict=True):
                own, all_rows = _SAME_PLACE.get(mine.dtype, (_COARSE, _COARSE))
                gap = float((mine - theirs).abs().max()) if mine.numel() else 0.0
                if gap > own * float(mine.abs().max() if mine.numel() else 0) + all_rows * largest:
                    raise RowsMixed("gradient")

    def _blamed(
        self, what: str, rows: Tensors, changed: Tensors, kept: Tensor, order: Tensor | None = None
    ) -> RowsMixed:
        one, other = rows[: self.arguments], changed[: self.arguments]
        seen = _Comparison(kept, order)
        try:
            with torch.no_grad():
                if isinstance(self.module, fx.GraphModule):
                    return RowsMixed(what, **_mixing_node(self.module, one, other, seen))
                return RowsMixed(what, **_mixing_module(self.module, one, other, seen))
        except RuntimeError:  # the name is help, not the finding
            return RowsMixed(what)


def are_alike(rows: Tensors) -> bool:
    """Whether the rows are all the same, so that nothing can be told from changing their places."""
    return all(bool((each == each[:1]).all()) for each in rows)


def _parts(count: int) -> Iterator[Tensor]:
    """Which rows stay, as masks: every second one, the others, the first half, the second half."""
    numbers, seen = torch.arange(count), set[tuple[bool, ...]]()
    for kept in (numbers % 2 == 0, numbers % 2 == 1, numbers < count // 2, numbers >= count // 2):
        key = tuple(kept.tolist())
        if any(key) and not all(key) and key not in seen:
            seen.add(key)
            yield kept


def _replaced(rows: Tensors, kept: Tensor) -> Tensors:
    """The rows with each that does not stay replaced by its next one."""
    numbers = torch.arange(len(kept))
    taken = torch.where(kept, numbers, numbers.roll(-1))
    return tuple(each[taken.to(each.device)] for each in rows)


def _same(
    one: Tensor, other: Tensor, of_row: float, of_all: float, like: Tensor | None = None
) -> bool:
    """Whether rows agree, to a part of each row's own largest number and a part of the largest of all."""
    if one.shape != other.shape:
        return False
    if not (one.is_floating_point() or one.is_complex()):
        return torch.equal(one, other)
    equal = (one == other) | (one.isnan() & other.isnan())
    gap = torch.where(equal, torch.zeros_like(one.abs()), (one - other).abs())
    size = torch.nan_to_num(one.abs(), nan=0.0, posinf=0.0)
    every = torch.nan_to_num((one if like is None else like).abs(), nan=0.0, posinf=0.0)
    bound = of_row * _widest(size) + of_all * float(every.max() if every.numel() else 0.0)
    return bool((gap <= bound).all())  # a gap that is NaN is none that is allowed


def _widest(size: Tensor) -> Tensor:
    """Each row's largest number, in a shape that meets the rows."""
    flat = size.reshape(len(size), -1)
    if not flat.shape[1]:
        return size
    return flat.amax(1).reshape(-1, *[1] * (size.ndim - 1))


@dataclass(frozen=True)
class _Comparison:
    """Compares an inner tensor of two runs, whose rows may stand anywhere in it."""

    kept: Tensor  # which rows are the same in both
    order: Tensor | None  # where the rows of the one stand in the other

    def has_rows(self, one: Tensor) -> bool:
        return any(size and size % len(self.kept) == 0 for size in one.shape)

    def agree(self, one: Tensor, other: Tensor) -> bool:
        """Whether the rows that stay are the same in both, for some reading of where the rows are."""
        if one.shape != other.shape:
            return False
        if torch.equal(one, other):
            return True
        return any(
            self._agree_along(one.reshape(shape), other.reshape(shape), axes)
            for shape, axes in self._readings(one.shape)
        )

    def _readings(self, shape: torch.Size) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Shapes, with the axes of the rows: axes of their number, and ones where they are folded into another."""
        count = len(self.kept)
        whole = [axis for axis, size in enumerate(shape) if size == count]
        yield from ((tuple(shape), (axis,)) for axis in whole)
        if len(whole) > 1:
            yield tuple(shape), tuple(whole)
        for axis, size in enumerate(shape):
            if size > count and size % count == 0:
                before, after = tuple(shape[:axis]), tuple(shape[axis + 1 :])
                yield (*before, count, size // count, *after), (axis,)
                yield (*before, size // count, count, *after), (axis + 1,)

    def _agree_along(self, one: Tensor, other: Tensor, axes: tuple[int, ...]) -> bool:
        chosen = self.kept.nonzero()[:, 0]
        for axis in axes:
            if self.order is not None:
                other = other.index_select(axis, self.order.to(other.device))
            one = one.index_select(axis, chosen.to(one.device))
            other = other.index_select(axis, chosen.to(other.device))
        of_all = _SAME_PLACE.get(one.dtype, (_COARSE, _COARSE))[0]
        if self.order is not None:
            of_all = _ELSEWHERE.get(one.dtype, _COARSE)
        return one.numel() == 0 or _same(one, other, 0.0, of_all)


class _Recorder(fx.Interpreter):
    """Keeps the tensors of each node."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.values: dict[fx.Node, list[Tensor]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.values[n] = _tensors(result)
        return result


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple | list):
        return [tensor for each in value for tensor in _tensors(each)]
    if isinstance(value, dict):
        return _tensors(list(value.values()))
    return []


def _mixing_node(
    module: fx.GraphModule, one: Tensors, other: Tensors, seen: _Comparison
) -> dict[str, str]:
    first, second = _Recorder(module), _Recorder(module)
    first.run(*one)
    second.run(*other)

    def pairs(node: fx.Node) -> list[tuple[Tensor, Tensor]]:
        return list(zip(first.values[node], second.values[node], strict=False))

    # Of tensors that have no rows any more (a mean over the batch), the first in which rows have met.
    met: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        if node.op in ("placeholder", "get_attr", "output"):
            continue
        tensors = pairs(node)
        if all(seen.agree(a, b) for a, b in tensors):
            continue
        earlier = [met[each] for each in node.all_input_nodes if each in met]
        if not any(seen.has_rows(a) for a, _ in tensors):
            met[node] = earlier[0] if earlier else node
            continue
        return _described(earlier[0] if earlier else node)
    return {}


def _described(node: fx.Node) -> dict[str, str]:
    while "getitem" in str(node.target) and node.all_input_nodes:
        node = node.all_input_nodes[0]
    target = node.target
    operator = getattr(target, "__name__", "") if callable(target) else ""
    return {
        "node": node.name,
        "operator": str(target) if str(target).startswith("aten.") else operator,
        "module": modules_of(node)[-1] if modules_of(node) else "",
    }


def _mixing_module(
    module: nn.Module, one: Tensors, other: Tensors, seen: _Comparison
) -> dict[str, str]:
    """The submodule that is first done with rows in it that differ."""
    recorded = (_outputs_of_modules(module, one), _outputs_of_modules(module, other))
    for (name, kind, first), (_, _, second) in zip(*recorded, strict=False):
        for a, b in zip(first, second, strict=False):
            if seen.has_rows(a) and not seen.agree(a, b):
                return {"module": name, "operator": kind}
    return {}


def _outputs_of_modules(module: nn.Module, rows: Tensors) -> list[tuple[str, str, list[Tensor]]]:
    """Path, type and tensors of each submodule, in the order in which they are done."""
    done: list[tuple[str, str, list[Tensor]]] = []
    handles = [
        part.register_forward_hook(
            lambda part, _, output, name=name: done.append(
                (name, type(part).__name__, _tensors(output))
            )
        )
        for name, part in module.named_modules()
        if name
    ]
    try:
        first_output(module(*rows))
    finally:
        for handle in handles:
            handle.remove()
    return done


def unlike_sizes(taken: Sequence[int], least: int) -> int:
    """A number of rows by which they are told from other axes: a prime that no size in `taken` is a multiple of."""
    return next(
        number
        for number in range(least, least + 200)
        if all(number % each for each in range(2, math.isqrt(number) + 1))
        and not any(size and size % number == 0 for size in taken)
    )
