"""How a job is cut into blocks: from the sizes of model, rows and memory."""

from __future__ import annotations

from math import prod

import torch

from service.storage.cuts import Cut
from upweight.schema import Arnoldi, Direct, IhvpJob, InfluencesJob, SelfInfluencesJob
from workers.engine.products.mixed import InputVariable, ModuleVariable
from workers.grid.plan import Plan, Side
from workers.grid.work import AnyJob, Material

CHUNK_BYTES = 32 * 1024**2  # of the matrix: what a contraction holds of its result
FEWEST_COLUMNS = 32  # of a chunk, before it gets fewer test rows
VECTORS_ALIVE = 6  # (k, p) blocks that an inversion has at once


def planned(request: AnyJob, material: Material, rhs_count: int, budget_bytes: int) -> Plan:
    """A plan for one task, which depends on nothing but its arguments."""
    trailing = _trailing(request, material)
    vector_bytes = material.problem.size * material.problem.dtype.itemsize
    test_rows = len(material.test) if material.test is not None else rhs_count
    test = Cut.evenly(test_rows, max(1, budget_bytes // vector_bytes))
    train = Cut.evenly(len(material.train), len(material.train))
    if isinstance(request, InfluencesJob) and request.keep.matrix:
        entry = prod(trailing) * material.problem.dtype.itemsize
        test = Cut.evenly(test_rows, min(test.step, CHUNK_BYTES // (FEWEST_COLUMNS * entry) or 1))
        train = Cut.evenly(len(material.train), CHUNK_BYTES // (test.step * entry) or 1)
    return Plan(
        spread=False,
        budget_bytes=budget_bytes,
        rhs=Cut.evenly(rhs_count, max(1, budget_bytes // (VECTORS_ALIVE * vector_bytes))),
        test=test,
        train=train,
        trailing=trailing,
        fits=_has_fit(request),
        solves=material.factors is None and not isinstance(request, SelfInfluencesJob),
        contracts=_contracts(request),
        predicts=_predicts(request),
    )


def _predicts(request: AnyJob) -> tuple[Side, ...]:
    if isinstance(request, InfluencesJob):
        return ("test", "train")
    if isinstance(request, SelfInfluencesJob):
        return ("train",)
    return () if isinstance(request, IhvpJob) else ("test",)


def _contracts(request: AnyJob) -> bool:
    if isinstance(request, InfluencesJob):
        return request.keep.matrix or request.keep.top > 0 or request.keep.mean
    return isinstance(request, SelfInfluencesJob)


def _has_fit(request: AnyJob) -> bool:
    preconditioned = getattr(request.inversion, "preconditioner", None) is not None
    return isinstance(request.inversion, Direct | Arnoldi) or preconditioned


def _trailing(request: AnyJob, material: Material) -> tuple[int, ...]:
    """The shape of one influence."""
    if not isinstance(request, InfluencesJob) or request.influence_type == "up":
        return ()
    module = request.perturb_at
    variable = InputVariable(material.perturb_input) if module is None else ModuleVariable(module)
    first = material.problem.placed(next(iter(material.train.batches(1))))
    with torch.no_grad():
        return tuple(variable.initial(material.problem, first).shape[1:])
