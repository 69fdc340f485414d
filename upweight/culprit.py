"""Finds the part of a module whose backward is not the derivative of its forward, and says what it has of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from upweight.proof import Call

Differs = Callable[["nn.Module", "Call"], bool]
OF_TORCH = ("CheckpointFunction", "BackwardHookFunction")


def culprit(module: nn.Module, call: Call, differs: Differs) -> tuple[str, nn.Module]:
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
    return [*functions, *backward, *hooked]


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


def _functions(module: nn.Module, call: Call) -> list[str]:
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
        outputs = pytree.tree_leaves(module(*inputs[0], **inputs[1]))
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
