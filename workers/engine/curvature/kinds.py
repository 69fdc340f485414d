"""The curvatures by kind and structure, and the one place where one is made.

A new kind is a class in a file of its own and a row of KINDS here; a new structure is a row of STRUCTURES.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from workers.engine.curvature.hessian import Hessian
from workers.engine.errors import BadParameter
from workers.engine.model.batching import DEFAULT_BUDGET, BatchSize
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Rows
from workers.engine.operators import Curvature
from workers.engine.progress import Progress

Found = TypeVar("Found")


@dataclass(frozen=True)
class Over:
    """What a curvature is the mean over, and how the rows are gone through.

    `first_row` is the number that the first of `rows` has among all training rows: labels that are
    drawn depend on the `seed` and on a row's number alone.
    """

    problem: Problem
    rows: Rows
    seed: int = 0
    first_row: int = 0
    batch_size: BatchSize = "auto"
    budget_bytes: int = DEFAULT_BUDGET
    progress: Progress | None = None


def _hessian(over: Over) -> Curvature:
    return Hessian(
        over.problem,
        over.rows,
        batch_size=over.batch_size,
        budget_bytes=over.budget_bytes,
        progress=over.progress,
    )


KINDS: dict[str, Callable[[Over], Curvature]] = {"hessian": _hessian}
# From the name of a kind to what the structure keeps of it.
STRUCTURES: dict[str, Callable[[str, Over], Curvature]] = {
    "full": lambda kind, over: _named(KINDS, "curvature.kind", kind)(over)
}


def make_curvature(over: Over, kind: str = "hessian", structure: str = "full") -> Curvature:
    """The curvature of this kind and structure. Raises BadParameter for a name that is unknown."""
    return _named(STRUCTURES, "curvature.structure", structure)(kind, over)


def _named(table: dict[str, Found], field: str, name: str) -> Found:
    if name not in table:
        raise BadParameter(field, name, f"this engine has {', '.join(table)}")
    return table[name]
