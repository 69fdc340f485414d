"""Which of several ways to compute a derivative is taken, and the comparison that decides whether one may be.

A rule of the model and the device selects, so that every worker takes the same: the clock would
choose now one and now another, and results would differ by rounding. What was measured is in the
rule: analytic derivatives of a known graph beat torch's transformations wherever they work; torch's
vectorised pass saves calls on small models, and is slower than one pass a vector where a row's
activations are many, or where it makes a grouped convolution of a plain one.

Nothing is taken without a second opinion: on a few rows it must agree with autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from workers.engine.autodiff.derivative import Derivative
from workers.engine.autodiff.graph.linearized import AnalyticHvp, AnalyticMixed, analytic_hvp
from workers.engine.autodiff.graph.output import GAUSS_NEWTON, GRADIENTS, HESSIAN, Term
from workers.engine.autodiff.graph.trace import untraced
from workers.engine.autodiff.hvp import ForwardOverReverse, ReverseBatched, ReverseLoop
from workers.engine.autodiff.mixed import MixedReverseBatched
from workers.engine.autodiff.outer import (
    FirstOrder,
    GaussNewtonForward,
    GaussNewtonLoop,
    GradientForward,
    GradientLoop,
    Pushed,
    losses_of,
    outputs_of,
)
from workers.engine.errors import BadParameter, EngineError, UnsupportedOperator
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch
from workers.engine.model.second_order import explained, is_out_of_memory, twice_differentiable

REFUSED_WORDS = 300
PROBE_ROWS = 4
PROBE_VECTORS = 2
DRAWN = 1 << 20  # entries of them at a time
# Largest difference from autograd, in units of its largest entry. Of second derivatives: wide enough
# for float32 forward mode through layer norm (1.5e-5 measured), far from a wrong rule.
FIRST_ORDER = {torch.float64: 1e-10, torch.float32: 1e-4}
SECOND_ORDER = {torch.float64: 1e-9, torch.float32: 1e-3}
OTHER_DTYPES = 1e-2
# Activations of a row above which calls cost nothing beside the work in them:
# `python -m benchmarks.peers --case encoder-cg`.
LOOPED_BYTES = {"cpu": 1 << 12}
LOOPED_BYTES_ELSEWHERE = 1 << 20


@dataclass
class ProductNotes:
    """What was found out about a problem's products by its graph."""

    graph_agrees: bool | None = None  # None: not tried yet
    refused: str | None = None

    def accept(self) -> None:
        """The analytic products agree with autograd's."""
        self.graph_agrees, self.refused = True, None

    def refuse(self, why: str) -> None:
        """The analytic products can't be taken."""
        self.graph_agrees, self.refused = False, why[:REFUSED_WORDS]


def product_notes(problem: Problem) -> ProductNotes:
    """Those of this problem, which grow as products are selected."""
    return problem.once(ProductNotes, ProductNotes)


def derivatives_used(problem: Problem, probe: Batch) -> dict[str, str]:
    """`product`: by the model's `graph` or by `autograd`; `product_refused`: why not by the graph, where that is so.

    Where no product was selected here yet, the graph alone is tried, on the rows of `probe`.
    """
    notes = product_notes(problem)
    if notes.graph_agrees is None:
        with suppress(Exception):  # whatever it is, products meet it and explain it
            agreeing(problem, problem.placed(probe), products_of(problem)[:1] + _analytic(problem))
    # No finer: a worker that ends a job need not be the one that selected.
    found = {"product": "graph" if notes.graph_agrees else "autograd"}
    if notes.graph_agrees is False and notes.refused is not None:
        found["product_refused"] = notes.refused
    return found


def _analytic(problem: Problem) -> list[Derivative]:
    analytic = analytic_hvp(problem)
    return [] if analytic is None else [analytic]


def probe_vectors(problem: Problem) -> Tensor:
    """The vectors (k, p) that derivatives are compared with, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    vectors = problem.theta.new_empty(PROBE_VECTORS * problem.size)
    for part in vectors.split(DRAWN):  # in float64, of which large models need no whole copy
        part.copy_(torch.randn(len(part), generator=generator, dtype=torch.float64))
    return vectors.view(PROBE_VECTORS, problem.size)


def agrees(found: Tensor, expected: Tensor, bounds: Mapping[torch.dtype, float]) -> bool:
    """Whether `found` is `expected` but for rounding. NaN or Inf in `expected` is for the caller to locate: agreed."""
    largest = _largest(expected)
    if not bool(torch.isfinite(largest)):
        return True
    bound = bounds.get(found.dtype, OTHER_DTYPES) * largest
    return bool((found - expected).abs_().max() <= bound)


def _largest(values: Tensor) -> Tensor:
    """The largest absolute entry, NaN where one is; no copy is made of what may be as large as many models."""
    least, most = values.aminmax()
    return torch.maximum(-least, most)


def agreeing(
    problem: Problem,
    probe: Batch,
    derivatives: Sequence[Derivative],
    between: Callable[[], None] = lambda: None,
) -> list[Derivative]:
    """The derivatives that run on a few rows and agree with the first that does.

    `between` is called before each try. Raises UnsupportedOperator if none works.
    """
    vectors = probe_vectors(problem)
    reference: Tensor | None = None
    working: list[Derivative] = []
    failure: Exception | None = None
    for derivative in derivatives:
        if reference is None and isinstance(derivative, AnalyticHvp | AnalyticMixed):
            # Tracing sees through an operator's own backward rule: trusted beside torch alone.
            continue
        between()
        try:
            with twice_differentiable():
                result = derivative.prepare(problem, probe)(vectors)
                if reference is None and isinstance(derivative, Pushed):
                    _require_adjoint(derivative, problem, probe)
        except Exception as error:  # a model may raise anything when it is vectorised
            if isinstance(error, EngineError) or is_out_of_memory(error):
                raise
            failure = failure or error
            if isinstance(derivative, AnalyticHvp):
                product_notes(problem).refuse(str(error))
            continue
        reference = result if reference is None else reference
        agreed = agrees(result, reference, SECOND_ORDER)
        if agreed:
            working.append(derivative)
        if isinstance(derivative, AnalyticHvp):
            _note(problem, agreed)
    if not working:
        raise _unsupported(failure) from failure
    return working


def _note(problem: Problem, agreed: bool) -> None:
    if agreed:
        product_notes(problem).accept()
    else:
        product_notes(problem).refuse("products by the model's graph differ from autograd's")


def _require_adjoint(derivative: Pushed, problem: Problem, probe: Batch) -> None:
    """Raises RuntimeError where J v is not what the first derivatives say."""
    if not derivative.is_adjoint(problem, probe, SECOND_ORDER):
        raise RuntimeError("torch's derivative of the model's backward pass is wrong")


# Of each term by torch's own transformations, the most robust first.
BY_TORCH: dict[Term, tuple[Derivative, ...]] = {
    HESSIAN: (ReverseLoop(), ReverseBatched(), ForwardOverReverse()),
    GAUSS_NEWTON: (GaussNewtonLoop(), GaussNewtonForward(), FirstOrder(outputs_of)),
    GRADIENTS: (GradientLoop(), GradientForward(), FirstOrder(losses_of)),
}


def products_of(problem: Problem, term: Term = HESSIAN) -> list[Derivative]:
    """All second derivatives in θ that may suit this model, the most robust first."""
    found, analytic = list(BY_TORCH[term]), analytic_hvp(problem, term)
    if analytic is None:
        product_notes(problem).refuse(untraced(problem))
        return found
    return [*found, analytic]


def select(
    problem: Problem,
    batch: Batch,
    derivatives: Sequence[Derivative] | None = None,
    *,
    several: bool = True,
    row_bytes: int = 0,
    named: str | None = None,
    between: Callable[[], None] = lambda: None,
) -> Derivative:
    """The first in the order of the rule that works and agrees with the most robust one.

    `derivatives` are by default those of the Hessian. `several` vectors at a time or one;
    `row_bytes` of activations. The one that is `named` is taken instead of the rule's. `between` is
    called between any two tries. Raises BadParameter for a name that is unknown or does not work,
    and UnsupportedOperator, naming the operator, when none works.
    """
    given = list(products_of(problem) if derivatives is None else derivatives)
    probe = batch.narrow(0, min(PROBE_ROWS, len(batch)))
    if named is not None:
        return _named(problem, probe, given, named, between)
    batched = several and _gains_by_vectorising(problem, row_bytes)
    for derivative in sorted(given, key=lambda each: _rank(each, batched)):
        with suppress(UnsupportedOperator):  # the others are still to be tried
            if derivative in agreeing(problem, probe, _beside(given[0], derivative), between):
                return derivative
    return agreeing(problem, probe, given, between)[0]


def _rank(derivative: Derivative, batched: bool) -> int:
    if isinstance(derivative, AnalyticHvp | AnalyticMixed):
        return 0
    if isinstance(derivative, FirstOrder):
        return 3
    return 1 if batched and isinstance(derivative, ReverseBatched | MixedReverseBatched) else 2


def _gains_by_vectorising(problem: Problem, row_bytes: int) -> bool:
    most = LOOPED_BYTES.get(problem.device.type, LOOPED_BYTES_ELSEWHERE)
    return row_bytes <= most and not convolves(problem.module)


def convolves(module: nn.Module) -> bool:
    """Whether the model, or its graph, has a convolution."""
    return any(
        isinstance(each, nn.modules.conv._ConvNd)
        or (isinstance(each, fx.GraphModule) and _has_convolution(each))
        for each in module.modules()
    )


def _has_convolution(module: fx.GraphModule) -> bool:
    return any("conv" in str(node.target) for node in module.graph.nodes)


def _beside(reference: Derivative, derivative: Derivative) -> list[Derivative]:
    """Torch's own transformations are wrong for some models: never without a second opinion."""
    return [reference] if derivative is reference else [reference, derivative]


def _named(
    problem: Problem,
    probe: Batch,
    given: list[Derivative],
    name: str,
    between: Callable[[], None],
) -> Derivative:
    found = [each for each in given if each.name == name]
    if not found:
        known = ", ".join(each.name for each in given)
        raise BadParameter("product", name, f"this model has {known}")
    if found[0] in agreeing(problem, probe, _beside(given[0], found[0]), between):
        return found[0]
    raise BadParameter("product", name, "fails, or is wrong, for this model")


def _unsupported(failure: Exception | None) -> Exception:
    if failure is None:
        return UnsupportedOperator("unknown", "the loss can't be differentiated twice")
    return explained(failure, "differentiating the loss twice")
