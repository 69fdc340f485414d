"""The curvatures by kind and structure, and the one place where one is made.

A new kind is a class in a file of its own and a row of KINDS here; a new structure is one of `Structure`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import cast, get_args

from workers.engine.autodiff.graph.output import FORMED_OUTPUTS
from workers.engine.curvature.fisher import DrawnRows, EmpiricalFisher, Keep
from workers.engine.curvature.gauss_newton import GaussNewton
from workers.engine.curvature.hessian import Hessian
from workers.engine.curvature.of_rows import CurvatureOfRows
from workers.engine.curvature.penalised import Penalised
from workers.engine.curvature.structured.columns import can_be_sketched
from workers.engine.curvature.structured.layout import Structure
from workers.engine.curvature.structured.make import structured
from workers.engine.errors import BadParameter
from workers.engine.model.batching import DEFAULT_BUDGET, BatchSize
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Rows
from workers.engine.operators import Curvature
from workers.engine.progress import Progress

# A preconditioner goes back from each column of a root up to so many; beyond, from one that is drawn.
FEW_OUTPUTS = 4


@dataclass(frozen=True)
class Over:
    """What a curvature is the mean over, and how the rows are gone through.

    `first_row` is the number that the first of `rows` has among all training rows: labels that are
    drawn depend on the `seed` and on a row's number alone, and `keep` spares a pass where they were
    drawn before.
    """

    problem: Problem
    rows: Rows
    seed: int = 0
    first_row: int = 0
    whole: Rows | None = None  # all training rows, where `rows` are a part of them
    mask_input: int | None = None  # the position of an input (B, T) that is 0 at tokens that pad
    batch_size: BatchSize = "auto"
    budget_bytes: int = DEFAULT_BUDGET
    progress: Progress | None = None
    keep: Keep | None = None

    @cached_property
    def drawn(self) -> DrawnRows:
        """The rows with labels drawn from the model's predictions; its `problem` takes them. Raises BadParameter."""
        return DrawnRows(
            self.problem,
            self.rows,
            seed=self.seed,
            first_row=self.first_row,
            budget_bytes=self.budget_bytes,
            progress=self.progress,
            keep=self.keep,
        )

    def mean(
        self,
        kind: type[CurvatureOfRows],
        problem: Problem | None = None,
        rows: Rows | None = None,
    ) -> Curvature:
        """The curvature of this class over the rows, or over others in their place."""
        return kind(
            problem or self.problem,
            self.rows if rows is None else rows,
            batch_size=self.batch_size,
            budget_bytes=self.budget_bytes,
            progress=self.progress,
        )


KINDS: dict[str, Callable[[Over], Curvature]] = {
    "hessian": lambda over: over.mean(Hessian),
    "gauss_newton": lambda over: over.mean(GaussNewton),
    "fisher": lambda over: over.mean(EmpiricalFisher, over.drawn.problem, over.drawn),
    "empirical_fisher": lambda over: over.mean(EmpiricalFisher),
}
FULL = "full"  # the structure that keeps all of a kind
STRUCTURES: tuple[str, ...] = (FULL, *get_args(Structure))


def make_curvature(over: Over, kind: str = "hessian", structure: str = "full") -> Curvature:
    """The curvature of this kind and structure. Raises BadParameter for a name that is unknown."""
    _require(STRUCTURES, "curvature.structure", structure)
    if structure != FULL:
        return _structured(kind, structure, over)
    found = _named(kind)(over)
    if isinstance(found, CurvatureOfRows):
        found.relative = lambda each: _relative(kind, each, over)
    penalty = over.problem.penalty
    return found if penalty is None else Penalised(found, penalty)


def _relative(kind: str, structure: str, over: Over) -> Curvature:
    """For a Hessian or a Gauss-Newton matrix the nearest sum of squares that the loss allows, at few columns a row."""
    loss = over.problem.loss
    if kind in ("hessian", "gauss_newton"):
        if loss.no_gauss_newton is None and can_be_sketched(loss):
            kind = "gauss_newton"
        else:
            kind = "fisher" if loss.no_labels is None else "empirical_fisher"
    _require(STRUCTURES, "preconditioner.structure", structure)
    return _structured(kind, structure, over, FEW_OUTPUTS)


def _structured(
    kind: str, structure: str, over: Over, exact_outputs: int = FORMED_OUTPUTS
) -> Curvature:
    whole = _named(kind)
    options = {
        "mask_input": over.mask_input,
        "probe": over.whole,
        "batch_size": over.batch_size,
        "budget_bytes": over.budget_bytes,
        "progress": over.progress,
    }
    return structured(
        kind,
        cast(Structure, structure),
        over.problem,
        over.rows,
        options,
        seed=over.seed,
        exact_outputs=exact_outputs,
        drawn=lambda: (over.drawn.problem, over.drawn),
        whole=lambda: whole(over),
    )


def _named(kind: str) -> Callable[[Over], Curvature]:
    _require(KINDS, "curvature.kind", kind)
    return KINDS[kind]


def _require(known: Collection[str], field: str, name: str) -> None:
    if name not in known:
        raise BadParameter(field, name, f"this engine has {', '.join(known)}")
