"""Which way to multiply: the fastest that works and agrees, by a short timing on one block."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from workers.engine.errors import BadParameter, EngineError, UnsupportedOperator
from workers.engine.problem import Problem
from workers.engine.products import Product
from workers.engine.products.forward import ForwardOverReverse
from workers.engine.products.graph import GraphMixed, GraphProduct, graph_product
from workers.engine.products.reverse import ReverseBatched, ReverseLoop
from workers.engine.rows import Batch
from workers.engine.second_order import explained, is_out_of_memory, twice_differentiable

PROBE_ROWS = 4
PROBE_VECTORS = 2
TIMED_VECTORS = 8
# Short timings are noise on a busy machine: the best of a few counts, one where it is long.
MOST_TIMINGS = 3
LONG_ENOUGH = 0.1  # seconds
TOO_LONG = 0.5
# Wide enough for float32 forward mode through layer norm (1.5e-5 measured), far from a wrong rule.
AGREEMENT = {torch.float64: 1e-9, torch.float32: 1e-3}


# Choices by the clock are made once a process: a timing costs as much as several products.
_chosen_before: dict[Hashable, str] = {}


def candidates(problem: Problem) -> list[Product]:
    """Ways that may fit this model, the most robust first."""
    found: list[Product] = [ReverseLoop(), ReverseBatched(), ForwardOverReverse()]
    graph = graph_product(problem)
    return found if graph is None else [*found, graph]


def fastest(
    problem: Problem,
    batch: Batch,
    vectors: Tensor,
    ways: Sequence[Product] | None = None,
    *,
    named: str | None = None,
    between: Callable[[], None] = lambda: None,
) -> Product:
    """The quickest of `ways` on this batch and up to TIMED_VECTORS of these vectors.

    A product written out to the last node is taken without a timing: nothing has beaten it, and
    the choice then is the same every time. So it is where the way is `named`. `between` is called
    between any two tries. Raises BadParameter for a name that
    is unknown or does not work, and UnsupportedOperator, naming
    the operator, when no way works.
    """
    given = list(candidates(problem) if ways is None else ways)
    if named is not None:
        return _named(problem, batch, given, named, between)
    probe = batch.narrow(0, min(PROBE_ROWS, len(batch)))
    for way in given:
        if isinstance(way, GraphProduct | GraphMixed) and _wholly(way, problem, probe):
            if way in working_ways(problem, probe, [given[0], way], between):
                return way
            given = [each for each in given if each is not way]
    key = _kind_of_work(problem, batch, vectors, given)
    if key in _chosen_before:
        with suppress(BadParameter):
            return _named(problem, batch, given, _chosen_before[key], between)
    working = working_ways(problem, probe, given, between)
    if len(working) == 1:
        return working[0]
    block = vectors[:TIMED_VECTORS]
    chosen = min(working, key=lambda way: _seconds(way, problem, batch, block, between))
    _chosen_before[key] = chosen.name
    return chosen


def _named(
    problem: Problem,
    batch: Batch,
    given: list[Product],
    name: str,
    between: Callable[[], None],
) -> Product:
    chosen = [way for way in given if way.name == name]
    if not chosen:
        known = ", ".join(way.name for way in given)
        raise BadParameter("product", name, f"the ways for this model are {known}")
    # Torch's own transformations are wrong for some models: never without a second opinion.
    pair = [given[0], *(way for way in chosen if way is not given[0])]
    for way in working_ways(problem, batch.narrow(0, min(PROBE_ROWS, len(batch))), pair, between):
        if way.name == name:
            return way
    raise BadParameter("product", name, "fails, or is wrong, for this model")


def _wholly(way: GraphProduct | GraphMixed, problem: Problem, probe: Batch) -> bool:
    try:
        with twice_differentiable():
            return way.is_written_out(problem, probe)
    except Exception as error:  # a node without a rule, or a model that fails on few rows
        if is_out_of_memory(error):
            raise
        return False


def _kind_of_work(
    problem: Problem, batch: Batch, vectors: Tensor, ways: Sequence[Product]
) -> Hashable:
    """What decides which way is the quickest; a model alike in all of it may share the choice."""
    return (
        str(problem.module),
        tuple((each.name, each.shape) for each in problem.layout),
        tuple(each.shape[1:] for each in batch.inputs),
        len(batch).bit_length(),
        len(vectors).bit_length(),
        problem.dtype,
        str(problem.device),
        torch.get_num_threads(),
        tuple(way.name for way in ways),
    )


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


def _seconds(
    way: Product, problem: Problem, batch: Batch, vectors: Tensor, between: Callable[[], None]
) -> float:
    best = float("inf")
    try:
        with twice_differentiable():
            between()
            begun = time.perf_counter()
            way.prepare(problem, batch)(vectors[:1])
            if time.perf_counter() - begun > TOO_LONG:
                vectors = vectors[:2]  # a trial, not the work itself
            for _ in range(MOST_TIMINGS):
                between()
                _synchronise(problem.device)
                begun = time.perf_counter()
                way.prepare(problem, batch)(vectors)
                _synchronise(problem.device)
                seconds = (time.perf_counter() - begun) / len(vectors)
                best = min(best, seconds)
                if seconds * len(vectors) > LONG_ENOUGH:
                    break
    except (RuntimeError, NotImplementedError) as error:
        if not is_out_of_memory(error):
            raise
    return best


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
