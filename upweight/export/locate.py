"""Finds the part of a module whose backward is not the derivative of its forward, and says what it has of its own."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from upweight.export.errors import TORCH

if TYPE_CHECKING:
    from torch import nn

    from upweight.export.compare import Call

Differs = Callable[["nn.Module", "Call"], bool]
OF_TORCH = ("CheckpointFunction", "BackwardHookFunction")
_OPERATORS = frozenset(
    f"__i{name}__"
    for name in [
        "add",
        "and",
        "floordiv",
        "lshift",
        "mod",
        "mul",
        "or",
        "pow",
        "rshift",
        "sub",
        "truediv",
        "xor",
    ]
)


def wrong_backward(module: nn.Module, call: Call, differs: Differs) -> tuple[str, nn.Module]:
    """The innermost part that differs from its own graph when it is called as `module` calls it; "" for all of it.

    `differs` exports a part and compares the two. A part that can't be looked at alone is taken as good.
    """
    calls = _calls(module, call)
    name, found = "", module
    while True:
        for inner, part in _children(found, calls):
            if differs(part, calls[part]):
                name, found = f"{name}.{inner}" if name else inner, part
                break
        else:
            return name, found


def own_backward(module: nn.Module, call: Call) -> list[str]:
    """What changes gradients in a module, as far as it shows: hooks, and autograd functions by their names."""
    hooked = [
        f"a hook on the parameter {name!r}"
        for name, value in module.named_parameters()
        if value._backward_hooks
    ]
    backward = [
        f"a backward hook on {name or 'itself'} ({type(part).__name__})"
        for name, part in module.named_modules()
        if part._backward_hooks or part._backward_pre_hooks
    ]
    functions = [f"the autograd function {name}" for name in _functions(module, call)]
    return [*functions, *written(module, call), *backward, *hooked]


def written(module: nn.Module, call: Call) -> list[str]:
    """The lines that write to a tensor behind the back of autograd: under `no_grad`, or through `.data`."""
    import torch
    from torch.overrides import TorchFunctionMode

    shared: list[torch.Tensor] = []
    found: dict[str, None] = {}

    class Looking(TorchFunctionMode):
        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            to = args[0] if args and isinstance(args[0], torch.Tensor) else None
            if function == torch.Tensor.data.__set__:  # type: ignore[attr-defined]
                found.setdefault(f"{_line()}, which puts other numbers into a tensor")
            elif to is not None and _writes(getattr(function, "__name__", "")):
                if to.requires_grad and not torch.is_grad_enabled():
                    found.setdefault(f"{_line()}, which writes to a tensor under torch.no_grad")
                elif any(to is each for each in shared):
                    found.setdefault(f"{_line()}, which writes to a tensor through .data")
            result = function(*args, **(kwargs or {}))
            if function == torch.Tensor.data.__get__:  # type: ignore[attr-defined]
                shared.append(result)
            return result

    with Looking():
        _outputs(module, call)
    return list(found)


def _writes(function: str) -> bool:
    """By the name of a method of tensors."""
    if function.startswith("__"):
        return function == "__setitem__" or (function.startswith("__i") and function in _OPERATORS)
    return function.endswith("_") and function not in ("detach_", "requires_grad_")


def _line() -> str:
    """Of the user's, that is being run."""
    for frame in reversed(traceback.extract_stack()):
        if TORCH not in frame.filename and frame.filename != __file__:
            return f"`{frame.line}`"
    return "a line"


def _calls(module: nn.Module, call: Call) -> dict[nn.Module, Call]:
    """How each part is called, the first time that it is."""
    import torch
    from torch.utils import _pytree as pytree

    calls: dict[nn.Module, Call] = {}

    def note(part: nn.Module, args: Any, kwargs: Any) -> None:
        if part not in calls:
            tensor = torch.Tensor
            calls[part] = pytree.tree_map_only(
                tensor, lambda one: one.detach().clone(), (args, kwargs)
            )

    with ExitStack() as stack:
        for part in module.modules():
            hook = part.register_forward_pre_hook(note, with_kwargs=True)
            stack.callback(hook.remove)
        module(*call[0], **call[1])
    return calls


def _children(part: nn.Module, calls: dict[nn.Module, Call]) -> Iterator[tuple[str, nn.Module]]:
    """The parts below that are called; lists of parts are not, so it is theirs."""
    for name, child in part.named_children():
        if child in calls:
            yield name, child
        else:
            yield from ((f"{name}.{inner}", one) for inner, one in _children(child, calls))


def _outputs(module: nn.Module, call: Call) -> list[Any]:
    """What it returns, with inputs that need gradients."""
    import torch
    from torch.utils import _pytree as pytree

    with torch.enable_grad():
        inputs = pytree.tree_map_only(
            torch.Tensor,
            lambda one: (
                one.detach().requires_grad_(True).clone() if one.is_floating_point() else one
            ),
            call,
        )
        return list(pytree.tree_leaves(module(*inputs[0], **inputs[1])))


def _functions(module: nn.Module, call: Call) -> list[str]:
    import torch

    outputs = _outputs(module, call)
    pending = [one.grad_fn for one in outputs if isinstance(one, torch.Tensor)]
    seen: set[Any] = set()
    found: dict[str, None] = {}
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            found[type(node).__name__.removesuffix("Backward")] = None
        pending.extend(after for after, _ in node.next_functions)
    return [name for name in found if name not in OF_TORCH]
