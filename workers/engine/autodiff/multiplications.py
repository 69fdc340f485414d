"""What a row costs on its way through a model's graph."""

from __future__ import annotations

from collections.abc import Iterable

from workers.engine.autodiff.graph.convolution import Convolution
from workers.engine.autodiff.graph.grouped import GroupedConvolution
from workers.engine.autodiff.graph.linear import LinearLayer
from workers.engine.autodiff.graph.parameters import TransposedLinear


def multiplications(nodes: Iterable[object]) -> int:
    """How many multiplications with weights a row takes on its way through these nodes."""
    total = 0
    for each in nodes:
        if isinstance(each, LinearLayer):
            total += each.inputs[0].numel() * len(each.weight)
        elif isinstance(each, TransposedLinear):
            total += each.inputs[0].numel() * each.weight.shape[1]
        elif isinstance(each, GroupedConvolution):
            total += each.output[2:].numel() * each.weight.numel()
        elif isinstance(each, Convolution):
            total += each.space.numel() * each.weight.numel()
    return total
