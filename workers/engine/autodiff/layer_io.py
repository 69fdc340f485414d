"""What goes into each layer of any model and which cotangents come back, by watching torch's functions.

A layer is wherever a whole selected parameter meets a function that is known: as a module, written
with the function itself, or as a node of an exported program. A row's gradient of the parameter is
then Σ_t g_t a_tᵀ over its tokens t, with a the inputs and g the cotangents of the output. Weights
take no gradient of their own, so that a pass back costs one product a layer. What is found is compared
with autograd's gradients on a few rows; a parameter that also works in some other way is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from workers.engine.autodiff.graph.convolution import unfolded
from workers.engine.autodiff.graph.trace import last_name
from workers.engine.autodiff.uses import BroadcastUse, LookupUse, MatrixUse, Use, half
from workers.engine.model.losses import Loss
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Targets


@dataclass(frozen=True)
class LayerIO:
    """A batch gone forward: the uses of parameters, and how to go back from any loss at the outputs."""

    uses: Sequence[Use]
    edges: Sequence[GradientEdge]
    outputs: object
    batch: Batch  # as it was given to the model
    rows: int  # of it that count

    def cotangents(self, loss: Loss, targets: Targets) -> list[Tensor | None]:
        """∂ΣL at the output of each use, for this loss; None where nothing of it arrives. May be asked again."""
        with torch.enable_grad():
            total = loss(self.outputs, targets).sum()
        if not self.edges or not total.requires_grad:
            return [None] * len(self.uses)
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            total, list(self.edges), retain_graph=True, allow_unused=True
        )
        return list(found)

    def of_rows(self, cotangents: Sequence[Tensor | None]) -> Iterator[tuple[Use, Tensor]]:
        """The uses with their cotangents, of the rows that count; without those where nothing arrives."""
        whole = len(self.batch)
        for use, cotangent in zip(self.uses, cotangents, strict=True):
            if cotangent is not None:
                if self.rows < whole:
                    use, cotangent = half(use, whole), cotangent[: len(cotangent) // 2]
                yield use, cotangent


def layer_io(problem: Problem, batch: Batch, names: Iterable[str] | None = None) -> LayerIO:
    """Runs the model on a batch that is `placed`, and notes the uses of these parameters, by default all selected.

    A single row is given twice: some models lose the row's axis otherwise.
    """
    given = batch.at_least_two()
    values = {
        name: each.detach().clone(memory_format=torch.contiguous_format)
        for name, each in problem.named(problem.theta).items()
    }
    wanted = values if names is None else {name: values[name] for name in names}
    watch = _Watch(wanted, len(given))
    with torch.enable_grad(), watch:
        outputs = problem.outputs_of(values, given)
    return LayerIO(watch.uses, watch.edges, outputs, given, len(batch))


class _Watch(TorchFunctionMode):
    """Notes the uses of whole parameters by functions that it knows."""

    def __init__(self, values: Mapping[str, Tensor], rows: int) -> None:
        super().__init__()
        self._values = {
            each.untyped_storage().data_ptr(): (name, each) for name, each in values.items()
        }
        self._rows = rows
        self.uses: list[Use] = []
        self.edges: list[GradientEdge] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        result = func(*args, **options)
        rule = _RULES.get(last_name(func))
        if rule is None or not isinstance(result, Tensor) or not result.is_floating_point():
            return result
        use = rule(self, args, options, result)
        if use is None:
            return result
        if not result.requires_grad:
            # The first layers: of what may be written to in place afterwards, a copy.
            result = result.detach().requires_grad_()
            self._note(use, result)
            return result.clone()
        self._note(use, result)
        return result

    def _note(self, use: Use, result: Tensor) -> None:
        self.uses.append(use)
        self.edges.append(get_gradient_edge(result))

    def whole(self, value: object) -> str | None:
        """The parameter that this is as a whole, in its own order."""
        found = self._of(value)
        if found is None or not isinstance(value, Tensor):
            return None
        name, own = found
        return name if value.numel() == own.numel() and value.is_contiguous() else None

    def matrix(self, value: object) -> tuple[str, bool] | None:
        """The parameter that this matrix (out, in) is, and whether it is that one transposed."""
        found = self._of(value)
        if found is None or not isinstance(value, Tensor) or value.ndim != 2:
            return None
        name, own = found
        if value.shape == own.shape and value.stride() == own.stride():
            return name, False
        if own.ndim == 2 and value.shape == own.T.shape and value.stride() == own.T.stride():
            return name, True
        return None

    def has(self, *values: object) -> bool:
        """Whether one of these is a selected parameter, or a part of one."""
        return any(self._of(each) is not None for each in values)

    def by_rows(self, value: Tensor) -> bool:
        """Whether its first axis is the rows, or rows and tokens together."""
        return value.ndim > 1 and value.shape[0] % self._rows == 0

    def _of(self, value: object) -> tuple[str, Tensor] | None:
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            return None
        found = self._values.get(value.untyped_storage().data_ptr())
        return found if found is not None and value.dtype == found[1].dtype else None


_Rule = Callable[[_Watch, Sequence[Any], Mapping[str, Any], Tensor], Use | None]


def _argument(
    args: Sequence[Any], options: Mapping[str, Any], place: int, name: str, default: Any = None
) -> Any:
    return args[place] if len(args) > place else options.get(name, default)


def _tokens_of(value: Tensor) -> Callable[[int], Tensor]:
    """(B, ..., c), or (B T, c), to (B, T, 1, c)."""
    held = value.detach()
    return lambda rows: held.reshape(rows, -1, 1, held.shape[-1])


def _flat(cotangent: Tensor, rows: int) -> Tensor:
    return cotangent.reshape(rows, -1, 1, cotangent.shape[-1])


def _affine(
    watch: _Watch, value: Any, weight: Any, bias: Any, *, stored_by_inputs: bool = False
) -> MatrixUse | None:
    """`weight` is (out, in), or (in, out) where it is `stored_by_inputs`."""
    if not isinstance(value, Tensor) or not isinstance(weight, Tensor) or weight.ndim != 2:
        return None
    found = watch.matrix(weight.mT if stored_by_inputs else weight)
    if found is None or not watch.by_rows(value):
        return None
    shift = None if bias is None else watch.whole(bias)
    return MatrixUse(found[0], shift, found[1], _tokens_of(value), _flat)


def _linear(
    watch: _Watch, args: Sequence[Any], options: Mapping[str, Any], result: Tensor
) -> Use | None:
    return _affine(
        watch,
        _argument(args, options, 0, "input"),
        _argument(args, options, 1, "weight"),
        _argument(args, options, 2, "bias"),
    )


def _addmm(
    watch: _Watch, args: Sequence[Any], options: Mapping[str, Any], result: Tensor
) -> Use | None:
    if options.get("beta", 1) != 1 or options.get("alpha", 1) != 1 or len(args) < 3:
        return None
    bias = args[0] if isinstance(args[0], Tensor) and args[0].ndim == 1 else None
    return _affine(watch, args[1], args[2], bias, stored_by_inputs=True)


def _matmul(
    watch: _Watch, args: Sequence[Any], options: Mapping[str, Any], result: Tensor
) -> Use | None:
    other = _argument(args, options, 1, "other", options.get("mat2"))
    return _affine(watch, args[0], other, None, stored_by_inputs=True)


def _convolution(
    watch: _Watch, args: Sequence[Any], options: Mapping[str, Any], result: Tensor
) -> Use | None:
    value, weight = (
        _argument(args, options, i, name) for i, name in enumerate(("input", "weight"))
    )
    bias = _argument(args, options, 2, "bias")
    stride, padding, dilation = (
        _argument(args, options, i, name, default)
        for i, name, default in ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))
    )
    groups = _argument(args, options, 6, "groups", 1)
    return _windowed(watch, value, weight, bias, (stride, padding, dilation), groups)


def _aten_convolution(
    watch: _Watch, args: Sequence[Any], options: Mapping[str, Any], result: Tensor
) -> Use | None:
    if len(args) < 9 or args[6]:  # transposed
        return None
    return _windowed(watch, args[0], args[1], args[2], tuple(args[3:6]), args[8])


def _windowed(
    watch: _Watch, value: Any, weight: Any, bias: Any, how: tuple[Any, ...], groups: int
) -> MatrixUse | None:
    name = watch.whole(weight)
    if name is None or not isinstance(value, Tensor) or value.ndim != weight.ndim:
        return None
    axes = weight.ndim - 2
    stride, padding, dilation = (_each_axis(each, axes) for each in how)
    kernel = weight.shape[2:]
    if padding == ["same"] * axes:
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        pads = [(each // 2, each - each // 2) for each in reach]
    else:
        pads = [(0, 0) if each == "valid" else (each, each) for each in padding]
    held, inside = value.detach(), weight.shape[1]

    def windows(rows: int) -> Tensor:
        padded = held
        if any(each != (0, 0) for each in pads):
            padded = F.pad(held, [each for pair in reversed(pads) for each in pair])
        # Picked by number: a copy of what `unfolded` gives takes five times as long.
        numbers = torch.arange(padded[0].numel(), dtype=torch.int32, device=held.device)
        found = unfolded(numbers.view(1, *padded.shape[1:]), kernel, stride, dilation)
        split = found.unflatten(1, (groups, inside)).movedim((1, 2), (1 + axes, 2 + axes))
        picked = padded.flatten(1).index_select(1, split.reshape(-1))
        return picked.view(rows, -1, groups, inside * kernel.numel())

    def by_places(cotangent: Tensor, rows: int) -> Tensor:
        found = cotangent.flatten(2).transpose(1, 2)  # (B, T, out)
        return found.reshape(rows, found.shape[1], groups, -1)

    shift = None if bias is None else watch.whole(bias)
    return MatrixUse(name, shift, False, windows, by_places, groups)


def _each_axis(value: Any, axes: int) -> list[Any]:
    if isinstance(value, int | str):
        return [value] * axes
    given = list(value)
    return given * axes if len(given) == 1 else given


def _embedding(
    watch: _Watch, args: Sequence[Any], options: Mapping[str, Any], result: Tensor
) -> Use | None:
    # Of torch.nn.functional numbers come first, of aten the weight does.
    first = _argument(args, options, 0, "input", options.get("weight"))
    second = _argument(args, options, 1, "weight", options.get("indices"))
    aten = isinstance(first, Tensor) and first.is_floating_point()
    tokens, weight = (second, first) if aten else (first, second)
    name = watch.whole(weight)
    padding = _argument(args, options, 2, "padding_idx")
    unlike = (options.get("scale_grad_by_freq"), options.get("max_norm"), *args[3:])
    if name is None or any(each not in (None, False, 2.0) for each in unlike) or tokens.ndim < 1:
        return None
    if padding is not None:
        padding = None if aten and padding < 0 else int(padding) % len(weight)
    return LookupUse(name, tokens, padding)


def _normalised(plain: Callable[[Sequence[Any], Mapping[str, Any]], tuple[Any, ...]]) -> _Rule:
    """Of a norm: `plain` answers weight, bias, their shape against a row, and what normalises without them."""

    def rule(
        watch: _Watch, args: Sequence[Any], options: Mapping[str, Any], result: Tensor
    ) -> Use | None:
        weight, bias, shape, normalise = plain(args, options)
        names = watch.whole(weight), watch.whole(bias)
        if names == (None, None):
            return None
        with torch.no_grad():
            inside = normalise() if names[0] is not None else None
        return BroadcastUse(*names, shape, inside)

    return rule


def _layer_norm(args: Sequence[Any], options: Mapping[str, Any]) -> tuple[Any, ...]:
    value, shape = args[0], _argument(args, options, 1, "normalized_shape")
    weight, bias = _argument(args, options, 2, "weight"), _argument(args, options, 3, "bias")
    eps = _argument(args, options, 4, "eps", 1e-5)
    return weight, bias, tuple(shape), lambda: F.layer_norm(value.detach(), shape, None, None, eps)


def _rms_norm(args: Sequence[Any], options: Mapping[str, Any]) -> tuple[Any, ...]:
    value, shape = args[0], _argument(args, options, 1, "normalized_shape")
    weight, eps = _argument(args, options, 2, "weight"), _argument(args, options, 3, "eps")
    return weight, None, tuple(shape), lambda: F.rms_norm(value.detach(), list(shape), None, eps)


def _group_norm(args: Sequence[Any], options: Mapping[str, Any]) -> tuple[Any, ...]:
    value, groups = args[0], _argument(args, options, 1, "num_groups")
    weight, bias = _argument(args, options, 2, "weight"), _argument(args, options, 3, "bias")
    eps = _argument(args, options, 4, "eps", 1e-5)
    shape = (value.shape[1], *(1,) * (value.ndim - 2))
    return weight, bias, shape, lambda: F.group_norm(value.detach(), groups, None, None, eps)


def _batch_norm(args: Sequence[Any], options: Mapping[str, Any]) -> tuple[Any, ...]:
    """In evaluation mode; aten has weight and bias before the statistics, torch.nn.functional after them."""
    value = args[0]
    names = ("running_mean", "running_var", "weight", "bias")
    given = [_argument(args, options, 1 + i, name) for i, name in enumerate(names)]
    if len(args) > 8:  # aten
        given = [*given[2:], *given[:2]]
    mean, variance, weight, bias = given
    training = _argument(args, options, 5, "training", False)
    eps = _argument(args, options, 7, "eps", 1e-5)
    shape = (value.shape[1], *(1,) * (value.ndim - 2))
    if training or mean is None or variance is None:
        return None, None, shape, lambda: None
    mean, variance = mean.view(shape), variance.view(shape)
    return weight, bias, shape, lambda: (value.detach() - mean) * (variance + eps).rsqrt()


def _scaled(
    watch: _Watch, args: Sequence[Any], options: Mapping[str, Any], result: Tensor
) -> Use | None:
    value, name, own = _beside(watch, args, options)
    if name is None or options.get("out") is not None:
        return None
    return BroadcastUse(name, None, own, value.detach())


def _shifted(
    watch: _Watch, args: Sequence[Any], options: Mapping[str, Any], result: Tensor
) -> Use | None:
    _, name, own = _beside(watch, args, options)
    if name is None or options.get("alpha", 1) != 1 or options.get("out") is not None:
        return None
    return BroadcastUse(None, name, own, None)


def _beside(watch: _Watch, args: Sequence[Any], options: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """The tensor of rows, and the parameter beside it with its shape."""
    if len(args) < 2 or not all(isinstance(each, Tensor) for each in args[:2]):
        return None, None, None
    for value, other in ((args[0], args[1]), (args[1], args[0])):
        name = watch.whole(other)
        if name is not None and not watch.has(value) and value.ndim >= max(1, other.ndim):
            return value, name, tuple(other.shape)
    return None, None, None


_RULES: dict[str, _Rule] = {
    "linear": _linear,
    "addmm": _addmm,
    "matmul": _matmul,
    "__matmul__": _matmul,
    "mm": _matmul,
    "conv1d": _convolution,
    "conv2d": _convolution,
    "conv3d": _convolution,
    "convolution": _aten_convolution,
    "embedding": _embedding,
    "layer_norm": _normalised(_layer_norm),
    "rms_norm": _normalised(_rms_norm),
    "group_norm": _normalised(_group_norm),
    "batch_norm": _normalised(_batch_norm),
    "mul": _scaled,
    "__mul__": _scaled,
    "__rmul__": _scaled,
    "multiply": _scaled,
    "add": _shifted,
    "__add__": _shifted,
    "__radd__": _shifted,
    "__iadd__": _shifted,
}
