"""What a block's object holds, and where it lies."""

from __future__ import annotations

import json

from service.storage.arrays import NewMatrix
from workers.grid.work import Solved, Tensors, Work


def factor_block(solved: Solved) -> tuple[Tensors, str]:
    """A block of solutions as tensors and a note: all that later stages need of it."""
    return {"factors": solved.x, **solved.of_rows}, json.dumps(solved.summary, sort_keys=True)


def new_matrix(work: Work, path: str) -> NewMatrix:
    """The job's matrix, a contraction a chunk."""
    plan = work.plan
    dtype = str(work.material.problem.dtype).removeprefix("torch.")
    return NewMatrix(path, plan.matrix_shape(), plan.chunk_shape(), dtype)
