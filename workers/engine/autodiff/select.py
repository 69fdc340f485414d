"""Which way to multiply: by a rule of the model and the device, so that every worker takes the same.

The clock would choose now one and now another, and results would differ by rounding. What was
measured is in the rule: a graph written out node by node beats torch's own ways wherever it works;
torch's vectorised pass saves calls on small models, and is slower than one pass a vector where a
row's activations are many, or where it makes a grouped convolution of a plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor, fx, nn

from workers.engine.autodiff.derivative import Product
from workers.engine.autodiff.graph.linearized import GraphMixed, GraphProduct, graph_product
from workers.engine.autodiff.hvp import ForwardOverReverse, ReverseBatched, ReverseLoop
from workers.engine.autodiff.mixed import MixedReverseBatched
from workers.engine.errors import BadParameter, EngineError, UnsupportedOperator
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch
from workers.engine.model.second_order import explained, is_out_of_memory, twice_differentiable

PROBE_ROWS = 4
PROBE_VECTORS = 2
# Wide enough for float32 forward mode through layer norm (1.5e-5 measured), far from a wrong rule.
AGREEMENT = {torch.float64: 1e-9, torch.float32: 1e-3}
# Activations of a row above which calls cost nothing beside the work in them.
LOOPED_BYTES = {"cpu": 1 << 12}
LOOPED_BYTES_ELSEWHERE = 1 << 20


def candidates(problem: Problem) -> list[Product]:
    """Ways that may fit this model, the most robust first."""
    found: list[Product] = [ReverseLoop(), ReverseBatched(), ForwardOverReverse()]
    graph = graph_product(problem)
    return found if graph is None else [*found, graph]


def chosen(
    problem: Problem,
    batch: Batch,
    ways: Sequence[Product] | None = None,
    *,
    several: bool = True,
    row_bytes: int = 0,
    named: str | None = None,
    between: Callable[[], None] = lambda: None,
) -> Product:
    """The first in the order of the rule that works and agrees with the most robust one.

    `several` vectors at a time or one; `row_bytes` of activations. The way that is `named` is taken
    instead of the rule's. `between` is called between any two tries. Raises BadParameter for a name
    that is unknown or does not work, and UnsupportedOperator, naming the operator, when no way
    works.
    """
    given = list(candidates(problem) if ways is None else ways)
    probe = batch.narrow(0, min(PROBE_ROWS, len(batch)))
    if named is not None:
        return _named(problem, probe, given, named, between)
    batched = several and _gains_by_vectorising(problem, row_bytes)
    for way in sorted(given, key=lambda each: _rank(each, batched)):
        with suppress(UnsupportedOperator):  # the others are still to be tried
            if way in working_ways(problem, probe, _beside(given[0], way), between):
                return way
    return working_ways(problem, probe, given, between)[0]


def _rank(way: Product, batched: bool) -> int:
    if isinstance(way, GraphProduct | GraphMixed):
        return 0
    return 1 if batched and isinstance(way, ReverseBatched | MixedReverseBatched) else 2


def _gains_by_vectorising(problem: Problem, row_bytes: int) -> bool:
    most = LOOPED_BYTES.get(problem.device.type, LOOPED_BYTES_ELSEWHERE)
    return row_bytes <= most and not _convolves(problem.module)


def _convolves(module: nn.Module) -> bool:
    return any(
        isinstance(each, nn.modules.conv._ConvNd)
        or (isinstance(each, fx.GraphModule) and _has_convolution(each))
        for each in module.modules()
    )


def _has_convolution(module: fx.GraphModule) -> bool:
    return any("conv" in str(node.target) for node in module.graph.nodes)


def _beside(reference: Product, way: Product) -> list[Product]:
    """Torch's own transformations are wrong for some models: never without a second opinion."""
    return [reference] if way is reference else [reference, way]


def _named(
    problem: Problem,
    probe: Batch,
    given: list[Product],
    name: str,
    between: Callable[[], None],
) -> Product:
    found = [way for way in given if way.name == name]
    if not found:
        known = ", ".join(way.name for way in given)
        raise BadParameter("product", name, f"the ways for this model are {known}")
    if found[0] in working_ways(problem, probe, _beside(given[0], found[0]), between):
        return found[0]
    raise BadParameter("product", name, "fails, or is wrong, for this model")


def working_ways(
    problem: Problem, probe: Batch, ways: Sequence[Product], between: Callable[[], None]
) -> list[Product]:
    """Those that run on a few rows and agree with the first that does."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(PROBE_VECTORS, problem.size, generator=generator, dtype=torch.float64)
    vectors = vectors.to(device=problem.device, dtype=problem.dtype)
    reference: Tensor | None = None
    working: list[Product] = []
    failure: Exception | None = None
    for way in ways:
        if reference is None and isinstance(way, GraphProduct | GraphMixed):
            # Tracing sees through an operator's own backward rule: trusted beside torch alone.
            continue
        between()
        try:
            with twice_differentiable():
                result = way.prepare(problem, probe)(vectors)
        except Exception as error:  # a model may raise anything when it is vectorised
            if isinstance(error, EngineError) or is_out_of_memory(error):
                raise
            failure = failure or error
            continue
        reference = result if reference is None else reference
        if _agree(result, reference):
            working.append(way)
    if not working:
        raise _unsupported(failure) from failure
    return working


def _agree(result: Tensor, reference: Tensor) -> bool:
    if not bool(torch.isfinite(reference).all()):
        return True  # judged, and located, by the caller
    bound = AGREEMENT.get(result.dtype, 1e-2) * reference.abs().max()
    return bool((result - reference).abs().max() <= bound)


def _unsupported(failure: Exception | None) -> Exception:
    if failure is None:
        return UnsupportedOperator("unknown", "no way of differentiating twice applies")
    return explained(failure, "differentiating the loss twice")
