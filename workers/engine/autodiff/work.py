"""What a row costs on its way through a model's layers."""

from __future__ import annotations

from collections.abc import Iterable

from workers.engine.autodiff.graph.convolution import Convolution
from workers.engine.autodiff.graph.linear import LinearLayer


def work_of(parts: Iterable[object]) -> int:
    """Multiplications with weights, of a row."""
    total = 0
    for each in parts:
        if isinstance(each, LinearLayer):
            total += each.inputs[0].numel() * len(each.weight)
        elif isinstance(each, Convolution):
            total += each.space.numel() * each.weight.numel()
    return total
