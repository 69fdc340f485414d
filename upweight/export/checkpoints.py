"""Reentrant checkpoints through which torch gives parameters no gradient. torch is imported when called, not before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from upweight.export.substitutes import replaced

if TYPE_CHECKING:
    from torch import nn

WAY_OUT = (
    "torch.utils.checkpoint with use_reentrant=True, none of whose inputs requires gradients: torch gives the "
    "parameters in it none, so they were not trained, while the derivative of forward is not zero. Checkpoint with "
    "use_reentrant=False and train them; or hold them fixed as they are, by requires_grad_(False) on them or by "
    "'parameters' without them"
)


class GradientLost(Exception):
    """`run` is what was checkpointed, a module or a function."""

    def __init__(self, run: Any) -> None:
        super().__init__(WAY_OUT)
        self.run = run


@contextmanager
def refusing_lost_gradients(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Raises GradientLost where a checkpoint keeps a gradient from one of these, in this thread.

    Elsewhere a program has what a checkpoint has: its function, and that one's derivative.
    """
    import torch
    from torch.utils import _pytree as pytree
    from torch.utils.checkpoint import CheckpointFunction

    def probing(*given: Any) -> Any:
        run, _preserve, *arguments = given
        result = run(*arguments)
        if any(isinstance(one, torch.Tensor) and one.requires_grad for one in arguments):
            return result
        outputs = [
            one
            for one in pytree.tree_leaves(result)
            if isinstance(one, torch.Tensor) and one.requires_grad
        ]
        if outputs and parameters:
            nothing = [torch.zeros_like(one) for one in outputs]
            found = torch.autograd.grad(
                outputs, parameters, nothing, retain_graph=True, allow_unused=True
            )
            if any(each is not None for each in found):
                raise GradientLost(run)
        return result

    with replaced(CheckpointFunction, "apply", staticmethod(probing)):
        yield
