"""Rows to try a program on: the example's own values where they are known, made-up ones where they are not.

Rows must differ, or what they do to each other can't be seen; and they must be ones that the program takes: an index
beyond the end of an embedding ends it. How far the integers of an input may go is found by running the program on
zeros, and following them to where they are used to look something up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from workers.engine.model.independence import unlike_sizes
from workers.programs.names import names
from workers.programs.program import InputSpec, Program

_LEAST_ROWS = 5
_MOST_CHOICES = 1000  # of an integer that nothing bounds tighter
_UNBOUNDED = 4  # choices for integers that look nothing up: counts, flags, lengths
_ERRORS = (RuntimeError, TypeError, ValueError, IndexError)

# Normal numbers, those of [0, 1), and positive ones: targets of a logarithm are none of the first.
_FLOATS: dict[str, Callable[[tuple[int, ...], torch.Generator], Tensor]] = {
    "normal": lambda shape, generator: torch.randn(shape, generator=generator),
    "uniform": lambda shape, generator: torch.rand(shape, generator=generator),
    "positive": lambda shape, generator: torch.randn(shape, generator=generator).exp(),
}


@dataclass(frozen=True)
class MadeUp:
    """One set of rows: a tensor for each input of the program. `of_example`: no value in it is made up."""

    rows: tuple[Tensor, ...]
    of_example: bool


def rows_to_try(program: Program) -> Iterator[MadeUp]:
    """Sets of rows, the likeliest first; the same ones for the same program."""
    specs, example = program.inputs, program.example
    sizes = [size for spec in specs for size in spec.example[1:]]
    sizes += [size for value in program.module.parameters() for size in value.shape]
    count = unlike_sizes(sizes, _LEAST_ROWS)
    known = _of_example(specs, example, count) if example else [None] * len(specs)
    limits = _limits(program.module, specs)
    for kind, choose in ((kind, choose) for choose in (True, False) for kind in _FLOATS):
        generator = torch.Generator().manual_seed(0)
        made = [
            _made_up(spec, count, kind, limit, generator, choose)
            for spec, limit in zip(specs, limits, strict=True)
        ]
        # What does not differ in the example is made up all the same.
        yield MadeUp(
            tuple(
                mine if value is None or _is_constant(value) else value
                for mine, value in zip(made, known, strict=True)
            ),
            False,
        )
        if all(value is not None and not _is_constant(value) for value in known):
            break  # the same rows each time
    given = [value for value in known if value is not None]
    if len(given) == len(specs):
        yield MadeUp(tuple(given), True)


def _is_constant(rows: Tensor) -> bool:
    return bool((rows == rows[:1]).all())


def _of_example(
    specs: Sequence[InputSpec], example: Mapping[str, Tensor], count: int
) -> list[Tensor | None]:
    """The example's rows and others between them, `count` in all: each value is one that it has, or lies among them."""
    generator, found = torch.Generator().manual_seed(1), list[Tensor | None]()
    given = len(next(iter(example.values())))
    order = torch.randperm(given, generator=generator)[:count]
    pairs = torch.randint(0, given, (2, max(0, count - len(order))), generator=generator)
    for spec in specs:
        rows = example.get(spec.name)
        if rows is None:
            found.append(None)
            continue
        one, other = rows[pairs[0]], rows[pairs[1]]
        if rows.is_floating_point():
            shares = torch.rand(len(one), *[1] * (one.ndim - 1), generator=generator)
            between = (shares * one + (1 - shares) * other).to(rows.dtype)
        else:
            between = torch.where(torch.rand(one.shape, generator=generator) < 0.5, one, other)
        found.append(torch.cat([rows[order], between]))
    return found


def _made_up(
    spec: InputSpec,
    count: int,
    kind: str,
    limit: Tensor | None,
    generator: torch.Generator,
    choose: bool,
) -> Tensor:
    dtype: torch.dtype = getattr(torch, spec.dtype)
    shape = (count, *spec.example[1:])
    if limit is None:
        return _FLOATS[kind](shape, generator).to(dtype)
    first, choices = limit.unbind(0)
    drawn = (torch.rand(shape, generator=generator, dtype=torch.float64) * choices).floor() * choose
    return (first + drawn.to(torch.int64)).to(dtype)


def _limits(module: nn.Module, specs: Sequence[InputSpec]) -> list[Tensor | None]:
    """Of each integer input the smallest value and the number of values that it may have, (2, …); None for floats."""
    integers = [
        None if getattr(torch, spec.dtype).is_floating_point else _unbounded(spec) for spec in specs
    ]
    if all(each is None for each in integers):
        return [None] * len(specs)
    for start in (0, 1):  # numbers that count from 1 look up row −1 at 0
        bounds = _Bounds(specs, start)
        try:
            with torch.no_grad(), bounds:
                module(*bounds.rows)
        except _ERRORS:
            continue
        return [
            None
            if default is None
            else torch.stack([torch.full_like(default, start), bounds.choices(number, default)])
            for number, default in enumerate(integers)
        ]
    return [
        None
        if default is None
        else torch.stack([torch.zeros_like(default), torch.ones_like(default)])
        for default in integers
    ]


def _unbounded(spec: InputSpec) -> Tensor:
    choices = {"bool": 2, "uint8": 256}.get(spec.dtype, _UNBOUNDED)
    return torch.full(spec.example[1:], choices, dtype=torch.int64)


class _Bounds(TorchDispatchMode):
    """Follows each number of integer inputs to the tables in which it is looked up.

    With each tensor that holds such numbers goes one of their places: which number of a row stands where. What is
    looked up is the number plus what has been added to it, which is what is seen, as the numbers are all `start`.
    """

    def __init__(self, specs: Sequence[InputSpec], start: int) -> None:
        super().__init__()
        self._start = start
        self._places: dict[int, tuple[Tensor, Tensor]] = {}  # held, so that no other gets its id
        self._begin: list[int] = []
        self.rows: list[Tensor] = []
        total = 0
        for spec in specs:
            self._begin.append(total)
            dtype: torch.dtype = getattr(torch, spec.dtype)
            shape = (2, *spec.example[1:])
            if dtype.is_floating_point:
                generator = torch.Generator().manual_seed(0)
                self.rows.append(torch.rand(shape, generator=generator).to(dtype))
                continue
            row = torch.full(shape, start, dtype=dtype)
            numbers = row[0].numel()
            places = torch.arange(total, total + numbers).reshape(1, *shape[1:]).expand(shape)
            self._places[id(row)] = (row, places)
            self.rows.append(row)
            total += numbers
        self._choices = torch.full((total,), _MOST_CHOICES + 1)

    def choices(self, number: int, default: Tensor) -> Tensor:
        """How many values each number of an input may have."""
        begin = self._begin[number]
        found = self._choices[begin : begin + default.numel()].reshape(default.shape)
        return torch.where(found <= _MOST_CHOICES, found.clamp(min=1), default)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        for index, size in _looked_up(name, args):
            self._bound(index, size)
        if name in _MOVES | _SHAPES | _KEEPS | _JOINS:
            self._follow(name, func, args, kwargs, out)
        return out

    def _bound(self, index: Any, size: int) -> None:
        if id(index) not in self._places:
            return
        places = self._places[id(index)][1].reshape(-1)
        added = index.reshape(-1).to(torch.int64) - self._start
        left = size - self._start - added
        known = places >= 0
        self._choices.scatter_reduce_(
            0, places[known], left[known].clamp(1, _MOST_CHOICES), reduce="amin"
        )

    def _follow(self, name: str, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        if name in _JOINS:
            parts = [
                self._places[id(each)][1]
                if id(each) in self._places
                else torch.full(each.shape, -1, dtype=torch.int64)
                for each in args[0]
            ]
            if any(id(each) in self._places for each in args[0]):
                self._places[id(out)] = (out, func(parts, *args[1:], **kwargs))
            return
        followed = [each for each in args if isinstance(each, Tensor) and id(each) in self._places]
        numbers = [each for each in followed if each.dtype != torch.bool]  # no mask of `where`
        if not numbers:
            return
        places = self._places[id(numbers[0])][1]
        if name in _KEEPS or name in _SHAPES:
            places = places.reshape(out.shape) if name in _SHAPES else places.expand(out.shape)
            self._places[id(out)] = (out, places)
            return
        moved = func(places, *args[1:], **kwargs)
        for one, where in (
            zip(out, moved, strict=True) if isinstance(out, tuple | list) else [(out, moved)]
        ):
            self._places[id(one)] = (one, where)


_MOVES = names(
    """
    alias slice select unsqueeze squeeze expand permute transpose t clone detach unbind split
    split_with_sizes flip  roll repeat diagonal unfold
    """
)
_SHAPES = names("view _unsafe_view reshape")
_KEEPS = names("_to_copy add sub clamp clamp_min clamp_max where masked_fill maximum minimum")
_JOINS = names("cat stack")
# Operators that look up along an axis: where they have the axis and the indices among their arguments.
_ALONG = names(
    "index_select gather scatter scatter_add scatter_reduce index_add index_copy index_fill"
)


def _looked_up(name: str, args: tuple[Any, ...]) -> Iterator[tuple[Tensor, int]]:
    """The indices of an operator, and the size of what they point into."""
    name = name.removesuffix("_")
    if name == "embedding":
        yield args[1], args[0].shape[0]
    elif name in _ALONG and args[0].ndim:
        yield args[2], args[0].shape[args[1]]
    elif name in ("index", "index_put"):
        given = [(axis, each) for axis, each in enumerate(args[1]) if each is not None]
        if all(each.dtype != torch.bool for _, each in given):  # a mask takes several axes
            yield from ((each, args[0].shape[axis]) for axis, each in given)
    elif name == "take":
        yield args[1], args[0].numel()
    elif name in ("nll_loss_forward", "nll_loss2d_forward"):
        yield args[1], args[0].shape[1 if args[0].ndim > 1 else 0]
