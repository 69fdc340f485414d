"""What a model computes before any selected parameter: once for each row, and not in every pass.

The graph is cut where values stop being the same for every θ. Rows behind the cut are the values there, and the model
is what follows. What takes no weight (masks, positions) need not be a row's own: it is computed behind the cut, from
the inputs.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from workers.engine.autodiff.graph.trace import RESHAPING_NAMES, last_name, traced
from workers.engine.model.losses import ProgramLoss
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Rows
from workers.engine.model.second_order import twice_differentiable
from workers.engine.progress import Progress, silent

STAGE = "frozen layers"
FEWEST_ROWS, MOST_ROWS, NUMBERS_AT_ONCE = 16, 4096, 1 << 20
BYTES_AT_ONCE = 1 << 26  # of the largest tensor on the way
COMPARED_ROWS = 3
SIZES = frozenset({"sym_size"})
ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-4}


@dataclass(frozen=True)
class FrozenPrefix:
    """The part of a model that no selected parameter reaches, and the problem that is left behind it."""

    original: Problem
    trunk: fx.GraphModule  # the model's inputs to the values at the cut
    behind: Problem  # of the same θ

    def of(self, batch: Batch) -> Batch:
        """The batch with its values at the cut for inputs. Raises ValueError where one has no axis for rows."""
        given = self.original.placed(batch).at_least_two()
        with torch.no_grad(), twice_differentiable():
            found = self.trunk(*given.inputs)
        if any(len(each) != len(given) for each in found):
            raise ValueError("a value at the cut is not a row's own")
        return Batch(tuple(each[: len(batch)] for each in found), batch.targets, batch.start)

    def row_bytes(self, rows: Rows) -> int:
        """Of the values of one row."""
        return sum(each[0].nbytes for each in self.of(next(iter(rows.batches(1)))).inputs)

    def computed(self, rows: Rows, progress: Progress = silent) -> RowsBehind:
        """All rows' values, in one pass. Raises what `progress` does."""
        first = next(iter(rows.batches(1)))
        size = NUMBERS_AT_ONCE // max(1, sum(each[0].numel() for each in first.inputs))
        size = min(max(FEWEST_ROWS, min(MOST_ROWS, size)), self._most_rows(first))
        pieces: list[tuple[Tensor, ...]] = []
        for batch in rows.batches(size):
            progress(STAGE, batch.start, len(rows), "rows")
            pieces.append(self.of(batch).inputs)
        return RowsBehind(rows, tuple(torch.cat(each) for each in zip(*pieces, strict=True)))

    def _most_rows(self, batch: Batch) -> int:
        """At a time, by the largest tensor that the trunk makes: tokens are few numbers, and attention makes many."""
        given = self.original.placed(batch).at_least_two()
        ran = _LargestTensor(self.trunk)
        with torch.no_grad(), twice_differentiable():
            ran.run(*given.inputs)
        return max(1, BYTES_AT_ONCE * len(given) // max(1, ran.largest))


class _LargestTensor(fx.Interpreter):
    """Runs a graph, and notes the bytes of the largest tensor that it makes."""

    largest = 0

    def run_node(self, n: fx.Node) -> Any:
        """What the node gives."""
        found = super().run_node(n)
        if isinstance(found, Tensor) and n.op.startswith("call"):
            self.largest = max(self.largest, found.nbytes)
        return found


@dataclass(frozen=True)
class RowsBehind:
    """Rows with values that were computed once for inputs; targets as they are."""

    rows: Rows
    values: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Rows start to stop in batches of `size`."""
        for batch in self.rows.batches(size, start, stop):
            here = slice(batch.start, batch.start + len(batch))
            yield Batch(tuple(each[here] for each in self.values), batch.targets, batch.start)

    def take(self, indices: Tensor) -> Batch:
        """The rows with these numbers."""
        values = tuple(each.index_select(0, indices.to(each.device)) for each in self.values)
        return Batch(values, self.rows.take(indices).targets, 0)


def frozen_prefix(problem: Problem, rows: Rows) -> FrozenPrefix | None:
    """The prefix with parameters of its own that no selected one reaches; None where there is none.

    It is tried on a few rows: None where what is left does not answer what the model does.
    """
    if isinstance(problem.loss, ProgramLoss) or not problem.frozen:
        return None
    if problem.follows and isinstance(problem.module, fx.GraphModule):
        return None  # a graph that is drawn of a live module is in the problem's type already
    graph = traced(problem) if len(rows) >= COMPARED_ROWS else None
    parts = None if graph is None else _parts(graph.module, problem)
    if parts is None:
        return None
    trunk, head = parts
    behind = copy.copy(problem)
    behind.lead(head)
    found = FrozenPrefix(problem, trunk, behind)
    return found if _agrees(found, rows) else None


def _parts(
    module: fx.GraphModule, problem: Problem
) -> tuple[fx.GraphModule, fx.GraphModule] | None:
    named = dict(problem.module.named_parameters())
    selected = {id(named[each.name]) for each in problem.layout}
    moving, weighed = set[fx.Node](), set[fx.Node]()
    for node in module.graph.nodes:
        name = last_name(node.target)
        if "_guards_fn" in str(node.target):
            continue
        if node.op == "call_module" or (name.endswith("_") and not name.endswith("__")):
            return None
        own = node.op == "get_attr" and id(_attribute(module, node)) in selected
        if own or moving.intersection(node.all_input_nodes):
            moving.add(node)
        elif _takes_frozen(module, node) or weighed.intersection(node.all_input_nodes):
            weighed.add(node)
    if not weighed or not any(node.op == "output" for node in moving):
        return None
    behind = _behind(module, moving, weighed)
    cut = [
        node
        for node in module.graph.nodes
        if node not in behind
        and (node in weighed or node.op == "placeholder")
        and behind.intersection(node.users)
    ]
    if not weighed.intersection(cut):
        return None
    head = _head(module, behind, cut)
    left = {name for name, _ in head.named_parameters()}
    return (
        (_trunk(module, moving, cut), head)
        if left.issuperset(each.name for each in problem.layout)
        else None
    )


def _takes_frozen(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a parameter is among the node's arguments, of those that do not move."""
    given = (each for each in node.all_input_nodes if each.op == "get_attr")
    return any(isinstance(_attribute(module, each), nn.Parameter) for each in given)


def _behind(module: fx.GraphModule, moving: set[fx.Node], weighed: set[fx.Node]) -> set[fx.Node]:
    """The nodes behind the cut: those that move, and what they take that has no weight in it, or only another shape.

    Layers of GPT-2 take all tokens of all rows as one axis: what is kept has an axis for rows.
    """
    found = set(moving)
    for node in reversed(module.graph.nodes):
        same = last_name(node.target) in RESHAPING_NAMES | SIZES
        plain = (node not in weighed or same) and node.op != "placeholder"
        if plain and found.intersection(node.users):
            found.add(node)
    return found


def _trunk(module: fx.GraphModule, moving: set[fx.Node], cut: Sequence[fx.Node]) -> fx.GraphModule:
    graph, copied = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in module.graph.nodes:
        guards = "_guards_fn" in str(node.target)
        if node not in moving and node.op != "output" and not guards:
            copied[node] = graph.node_copy(node, copied.__getitem__)
    graph.output(tuple(copied[node] for node in cut))
    graph.eliminate_dead_code()
    return fx.GraphModule(module, graph)


def _head(module: fx.GraphModule, behind: set[fx.Node], cut: Sequence[fx.Node]) -> fx.GraphModule:
    graph = fx.Graph()
    copied = {node: graph.placeholder(f"at_{node.name}") for node in cut}
    for node in module.graph.nodes:
        if node in behind and node.op == "output":
            result = node.args[0]
            while isinstance(result, tuple | list) and len(result) == 1:
                result = result[0]
            graph.output(fx.node.map_arg(result, copied.__getitem__))
        elif node in behind:
            copied[node] = graph.node_copy(node, copied.__getitem__)
    return fx.GraphModule(module, graph)


def _attribute(module: nn.Module, node: fx.Node) -> object:
    return operator.attrgetter(str(node.target))(module)


def _agrees(found: FrozenPrefix, rows: Rows) -> bool:
    """Whether there is a value a row at the cut, and what follows has the model's own outputs, and their gradient.

    Both: a graph that is drawn of a live module may have lost what the module holds constant.
    """
    batch = next(iter(rows.batches(COMPARED_ROWS)))
    try:
        found.of(batch.narrow(0, 1))  # of two rows and of three: no other axis is as long as both
        several = found.of(batch)
        if not all(isinstance(each, Tensor) for each in several.inputs):
            return False
        expected = _outputs_and_gradient(found.original, batch)
        got = _outputs_and_gradient(found.behind, several)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    return all(
        mine.shape == theirs.shape and _close(mine, theirs)
        for mine, theirs in zip(got, expected, strict=True)
    )


def _outputs_and_gradient(problem: Problem, batch: Batch) -> tuple[Tensor, Tensor]:
    """What the model returns, and the gradient (p,) of its sum with random weights. Raises TypeError for several."""
    theta = problem.theta.clone().requires_grad_()
    with torch.enable_grad(), twice_differentiable():
        outputs = problem.outputs(theta, problem.placed(batch))
        if not isinstance(outputs, Tensor):
            raise TypeError("several outputs")
        weights = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0))
        (gradient,) = torch.autograd.grad((outputs * weights.to(outputs)).sum(), theta)
    return outputs.detach(), gradient


def _close(found: Tensor, expected: Tensor) -> bool:
    bound = ROUNDING.get(expected.dtype, 0.0) * expected.abs().max()
    return bool((found - expected).abs().max() <= bound)
