"""Columns of G that belong to the rows of one batch: passes back, from each root of a row's matrix at the outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.engine.autodiff.graph.assemble import Assembly, ParameterNode
from workers.engine.autodiff.graph.linear import LinearLayer
from workers.engine.autodiff.graph.linearized import Linearized, rows_come_first
from workers.engine.autodiff.graph.output import Term
from workers.engine.autodiff.graph.parameters import SharedParameter
from workers.engine.autodiff.graph.trace import Traced
from workers.engine.model.parameters import ParameterSlice
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch


class ColumnsOfBatch:
    """Of a batch of B rows that is `placed`: `count` columns a row, numbered, the largest first.

    Raises ValueError for a graph with a node without a rule.
    """

    def __init__(self, problem: Problem, graph: Traced, batch: Batch, term: Term) -> None:
        self._problem, self._rows = problem, len(batch)
        given = batch.at_least_two()
        self._given = len(given)
        assembly = Assembly(problem, graph, given, None)
        self._shape = assembly.output.shape
        self._roots = term.roots(problem.loss, assembly.output, given.targets)
        self.count = self._roots.shape[1]
        self._linearized = Linearized(
            assembly.nodes, assembly.output_name, torch.zeros_like, assembly.active
        )
        self._layers = layers_of(assembly)

    @property
    def places(self) -> list[tuple[ParameterSlice | None, ParameterSlice | None]]:
        """Weight's and bias' of each linear layer."""
        return [(each.weight_slice, each.bias_slice) for each in self._linear]

    @property
    def _linear(self) -> list[LinearLayer]:
        return [each for each in self._layers if isinstance(each, LinearLayer)]

    def outer(self, number: int, scale: float) -> tuple[Tensor, Sequence[Tensor]]:
        """Squares of norms (B,); inputs and cotangents of each layer in turn."""
        self._back(number, scale)
        total, pieces = self._roots.new_zeros(self._given), []
        for each in self._linear:
            cotangents = _cotangent_of(each)
            beside = total.new_zeros(self._given)
            if each.weight_slice is not None:
                beside += each.inputs.square().sum(1)
            if each.bias_slice is not None:
                beside += 1.0
            total += beside * cotangents.square().sum(1)
            pieces += [each.inputs[: self._rows], cotangents[: self._rows]]
        return total[: self._rows], pieces

    def written(self, number: int, scale: float) -> tuple[Tensor, Sequence[Tensor]]:
        """Squares of norms (B,), and the columns (B, p)."""
        self._back(number, scale)
        result = self._roots.new_zeros(self._given, self._problem.size)
        for each in self._layers:
            if each.target in self._linearized.live:
                each.row_gradients(result)
        result = result[: self._rows]
        return torch.linalg.vecdot(result, result), [result]

    def _back(self, number: int, scale: float) -> None:
        self._linearized.back((self._roots[:, number] * scale).view(self._shape))


def layers_of(assembly: Assembly) -> list[ParameterNode]:
    """Those with a selected parameter. Raises ValueError where a row's own part of a gradient can't be told."""
    layers = [each for each in assembly.nodes if isinstance(each, ParameterNode)]
    for each in layers:
        if isinstance(each, SharedParameter):
            raise ValueError(f"{each.place.name} is a tensor that all rows share")
    return [each for each in layers if each.places]


def layers_by_row(assembly: Assembly) -> list[ParameterNode]:
    """The same, of a few rows that stand for all: also raises ValueError where rows don't come first in a layer."""
    found = layers_of(assembly)
    if not rows_come_first(assembly):
        raise ValueError("a layer has its rows in another axis than the first")
    return found


def _cotangent_of(layer: LinearLayer) -> Tensor:
    if layer.cotangent is None:  # nothing of it reaches the output
        return layer.inputs.new_zeros(len(layer.inputs), len(layer.weight))
    return layer.cotangent
