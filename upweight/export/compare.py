"""Whether an exported program is the module: the same outputs, and the same gradients whatever the loss.

A loss's gradient is a vector-Jacobian product of the outputs. So products with random vectors are compared, for each
output alone: with respect to the parameters and the floating-point inputs, on the example's rows, and on made-up rows
at parameters a little away from the module's, where a zero gate hides nothing. One of the vectors is large: a backward
that clips shows there. What the two sides may differ by is what rounding does to the module's own answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Call = tuple[tuple[Any, ...], dict[str, Any]]  # positional and keyword arguments
Chosen = Callable[[str, "nn.Parameter"], bool]
Kind = Literal["output", "gradient", "failure"]
Key = tuple[Kind, str, int]  # the last is the output that the gradient is of

SMALL, LARGE = 1.0, 1e3  # sizes of the vectors
AMPLITUDES = (0.3, 1.0, 3.0)  # of made-up rows, beside the example's
ASIDE = 0.1  # how far made-up parameters are from the module's, beside their size
SEPARATE = 4  # outputs that have a product each; further ones share the last
CLOSE = 100  # units in the last place of a tensor's largest entry: not looked into
SEEN = 10  # times what rounding the parameters anew does to the module's own answer …
EXCUSED = 1e4  # … but no more than so many units of the tensor's largest entry,
CANCELLED = 100  # and so many of the largest entry of all tensors of its kind;
COARSE = 0.03  # each of these no more than so much, in half precision


@dataclass(frozen=True)
class Difference:
    """The tensor that differs most. `size`: beside the tensor's largest entry."""

    kind: Kind
    what: str
    size: float = 0.0


class NoGradient(Exception):
    """The module's own backward fails; the message has torch's words."""


@dataclass(frozen=True)
class _Answer:
    """Outputs and gradients by key, those that are not there left out."""

    tensors: dict[Key, Tensor]

    @property
    def finite(self) -> bool:
        return all(bool(one.isfinite().all()) for one in self.tensors.values())

    def largest(self, kind: Kind, place: int) -> float:
        """The largest entry of all outputs, or of all gradients of one output."""
        return max(
            (_size(one) for key, one in self.tensors.items() if key[0] == kind and key[2] == place),
            default=0.0,
        )


def first_difference(
    program: nn.Module, module: nn.Module, call: Call, chosen: Chosen
) -> Difference | None:
    """None if `program`, a graph of `module` that is used for nothing else, has its outputs and gradients.

    `call`: what the module is called with, the example's rows. `chosen`: by name and value, which parameters gradients
    are compared for. Parameters and their flags are in the end what they were. Raises NoGradient, and what forward
    raises on the example's rows.
    """
    parameters = {
        name: value
        for name, value in module.named_parameters()
        if value.is_floating_point() and chosen(name, value)
    }
    pair = _Pair(program, module, parameters)
    with _differentiated(parameters.values()):
        found = pair.compared(call, SMALL)
        if found is not None:
            return found
        for made_up, values in _made_up(call, parameters):
            with pair.valued(values):
                wanted = pair.wanted_if_finite(made_up, LARGE)
                if wanted is not None:
                    return pair.compared(made_up, LARGE, wanted)
        return pair.compared(call, LARGE)


class _Pair:
    """The two sides, whose parameters have the same names."""

    def __init__(
        self, program: nn.Module, module: nn.Module, parameters: dict[str, nn.Parameter]
    ) -> None:
        self._program, self._module, self._parameters = program, module, parameters
        theirs = _of_its_own(program)
        self._theirs = {name: theirs[name] for name in parameters if name in theirs}

    def wanted_if_finite(self, call: Call, size: float) -> _Answer | None:
        try:
            answer = _answer(self._module, self._parameters, call, size)
        except Exception:  # made-up rows may be nothing that forward takes
            return None
        return answer if answer.finite else None

    def compared(self, call: Call, size: float, wanted: _Answer | None = None) -> Difference | None:
        wanted = wanted or _answer(self._module, self._parameters, call, size)
        try:
            got = _answer(self._program, self._theirs, call, size)
        except Exception as exc:
            return Difference("failure", f"{type(exc).__name__}: {' '.join(str(exc).split())}")
        unit = self._unit(wanted)
        close, excused, cancelled = (min(n * unit, COARSE) for n in (CLOSE, EXCUSED, CANCELLED))
        gaps = {
            key: gap
            for key in wanted.tensors.keys() | got.tensors.keys()
            if (gap := _gap(wanted.tensors.get(key), got.tensors.get(key)))
            > close * _size(wanted.tensors.get(key))
        }
        if not gaps:
            return None
        again = [self._rounded_anew(call, size, unit, seed) for seed in range(2)]
        found = []
        for key, gap in gaps.items():
            own, every = _size(wanted.tensors.get(key)), wanted.largest(key[0], key[2])
            noise = max(_gap(wanted.tensors.get(key), one.tensors.get(key)) for one in again)
            if not gap <= close * own + min(SEEN * noise, excused * own + cancelled * every):
                found.append(Difference(key[0], key[1], gap / own if own else float("inf")))
        # Outputs first: where they differ, so do gradients.
        return max(found, key=lambda one: (one.kind == "output", one.size), default=None)

    @contextmanager
    def valued(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Both sides with other values of some parameters, which stay the objects that they are: so do their hooks."""
        changed = [
            (side[name], side[name].data, value)
            for name, value in values.items()
            for side in (self._parameters, self._theirs)
            if name in side
        ]
        try:
            for parameter, _, value in changed:
                parameter.data = value
            yield
        finally:
            for parameter, before, _ in changed:
                parameter.data = before

    def _rounded_anew(self, call: Call, size: float, unit: float, seed: int) -> _Answer:
        import torch

        draw = torch.Generator().manual_seed(seed)
        values = {
            name: value.detach() * (1 + unit * _normal(value, draw))
            for name, value in self._parameters.items()
        }
        with self.valued(values):
            return _answer(self._module, self._parameters, call, size)

    def _unit(self, wanted: _Answer) -> float:
        """The relative rounding of the coarsest dtype that takes part."""
        import torch

        tensors = [*self._module.parameters(), *self._module.buffers(), *wanted.tensors.values()]
        found = {one.dtype for one in tensors if one.is_floating_point()}
        return max(
            (torch.finfo(dtype).eps for dtype in found), default=torch.finfo(torch.float32).eps
        )


def _answer(
    side: nn.Module, parameters: Mapping[str, nn.Parameter], call: Call, size: float
) -> _Answer:
    """What one side answers, and the gradients of each output with a vector that is the same on both sides."""
    import torch
    from torch.utils import _pytree as pytree

    leaves, (args, kwargs) = _with_leaves(call)
    inputs = {**{f"parameter {name!r}": value for name, value in parameters.items()}, **leaves}
    outputs = [
        one for one in pytree.tree_leaves(side(*args, **kwargs)) if isinstance(one, torch.Tensor)
    ]
    tensors: dict[Key, Tensor] = {}
    groups: dict[int, list[tuple[Tensor, Tensor]]] = {}
    draw = torch.Generator().manual_seed(0)
    for place, output in enumerate(outputs):
        tensors["output", f"output {place}", -1] = output.detach()
        if not output.is_floating_point():
            continue
        vector = size * _normal(output, draw)
        if output.requires_grad:
            groups.setdefault(min(place, SEPARATE - 1), []).append((output, vector))
    for place, group in groups.items():
        ours, vectors = zip(*group, strict=True)
        try:
            found = (
                torch.autograd.grad(
                    ours, list(inputs.values()), vectors, retain_graph=True, allow_unused=True
                )
                if inputs
                else ()
            )
        except Exception as exc:
            raise NoGradient(f"{type(exc).__name__}: {' '.join(str(exc).split())}") from exc
        for name, gradient in zip(inputs, found, strict=True):
            # No gradient is the same as one of zeros: the engine takes it so, too.
            if gradient is not None:
                tensors["gradient", f"{name}", place] = gradient.detach()
    return _Answer(tensors)


def _of_its_own(program: nn.Module) -> dict[str, nn.Parameter]:
    """The program's parameters by name, made others than the module's, which may have hooks."""
    from torch import nn

    made: dict[nn.Parameter, nn.Parameter] = {}
    found = dict(program.named_parameters(remove_duplicate=False))
    for name, value in found.items():
        trains = value.is_floating_point() or value.is_complex()
        made.setdefault(value, nn.Parameter(value.detach(), requires_grad=trains))
        owner, _, last = name.rpartition(".")
        program.get_submodule(owner)._parameters[last] = made[value]
    return {name: made[value] for name, value in found.items()}


def _with_leaves(call: Call) -> tuple[dict[str, Tensor], Call]:
    """The call with floating-point tensors that gradients are taken for; forward may write to what it is given."""
    import torch
    from torch.utils import _pytree as pytree

    leaves: dict[str, Tensor] = {}

    def one(path: Any, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if not value.is_floating_point():
            return value.clone()
        leaf = value.detach().requires_grad_(True)
        name = str(getattr(path[-1], "key", getattr(path[-1], "idx", len(leaves))))
        leaves[f"input {name!r}" if not name.isdigit() else f"input {name}"] = leaf
        return leaf.clone()

    return leaves, pytree.tree_map_with_path(one, call)


@contextmanager
def _differentiated(parameters: Any) -> Iterator[None]:
    """Those that are frozen have gradients, too, for as long as this lasts."""
    frozen = [value for value in parameters if not value.requires_grad]
    for value in frozen:
        value.requires_grad_(True)
    try:
        yield
    finally:
        for value in frozen:
            value.requires_grad_(False)


def _made_up(
    call: Call, parameters: Mapping[str, nn.Parameter]
) -> Iterator[tuple[Call, dict[str, Tensor]]]:
    """Rows, and values of parameters: far from the example's first, then of its own entries."""
    import torch
    from torch.utils import _pytree as pytree

    draw = torch.Generator().manual_seed(1)
    aside = {
        name: value.detach() + ASIDE * _spread(value) * _normal(value, draw)
        for name, value in parameters.items()
    }
    tensor = torch.Tensor
    yield pytree.tree_map_only(tensor, lambda rows: _normal_rows(rows, draw), call), aside
    yield pytree.tree_map_only(tensor, lambda rows: _resampled(rows, draw), call), {}


def _normal_rows(rows: Tensor, draw: torch.Generator) -> Tensor:
    """Normal numbers around the example's, small and large; integers are the example's own, which are in range."""
    import torch

    if not rows.is_floating_point() or not rows.numel() or not rows.ndim:
        return _resampled(rows, draw)
    spread = float(rows.double().std(correction=0)) or _spread(rows)
    amplitudes = torch.tensor(AMPLITUDES, dtype=torch.float64)
    amplitudes = amplitudes[torch.arange(len(rows)) % len(AMPLITUDES)]
    amplitudes = amplitudes.reshape(-1, *[1] * (rows.ndim - 1))
    noise = torch.randn(rows.shape, generator=draw, dtype=torch.float64)
    return (rows.double().mean() + spread * amplitudes * noise).to(rows.dtype)


def _resampled(rows: Tensor, draw: torch.Generator) -> Tensor:
    """Each entry from the same place of some row of the example."""
    import torch

    if rows.ndim == 0 or not rows.numel():
        return rows
    return rows.gather(0, torch.randint(len(rows), rows.shape, generator=draw))


def _normal(like: Tensor, draw: torch.Generator) -> Tensor:
    import torch

    return torch.randn(like.shape, generator=draw).to(like.dtype)


def _spread(values: Tensor) -> float:
    """The root of the mean square, and 1 where all is zero."""
    size = float(values.detach().double().square().mean().sqrt()) if values.numel() else 1.0
    return size or 1.0


def _gap(wanted: Tensor | None, got: Tensor | None) -> float:
    """The largest difference; infinite where shapes differ, or numbers that are not finite."""
    import torch

    if wanted is None or got is None:
        return _size(wanted) + _size(got)
    if wanted.shape != got.shape:
        return float("inf")
    if torch.equal(wanted, got):
        return 0.0
    if not wanted.is_floating_point() and not wanted.is_complex():
        return float("inf")
    wide = torch.complex128 if wanted.is_complex() else torch.float64
    a, b = wanted.to(wide), got.to(wide)
    same = (a == b) | (a.isnan() & b.isnan())
    apart = (a - b).abs()[~same]
    return float(apart.nan_to_num(nan=float("inf")).max()) if apart.numel() else 0.0


def _size(tensor: Tensor | None) -> float:
    """The largest entry that is finite."""
    if tensor is None or not tensor.numel():
        return 0.0
    sizes = tensor.abs().double()
    return float(sizes[sizes.isfinite()].max()) if bool(sizes.isfinite().any()) else 0.0
