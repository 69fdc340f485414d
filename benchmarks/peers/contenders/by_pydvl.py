"""pyDVL's torch influences, in one full batch unless the settings say otherwise.

What costs it without need is taken away: rows come from tensors at once instead of one by one.
LiSSA builds a loader of its own, which a data set that hands out whole batches makes cheap.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pydvl.influence import InfluenceMode
from pydvl.influence.torch import (
    ArnoldiInfluence,
    CgInfluence,
    DirectInfluence,
    LissaInfluence,
)
from pydvl.influence.torch.batch_operation import HessianBatchOperation
from pydvl.influence.torch.preconditioner import NystroemPreconditioner
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler, TensorDataset

from benchmarks.peers.contenders import Answer, Work
from benchmarks.peers.problem import Rows

NEVER = 1e-30  # a tolerance that stops nothing
# A part of the rows for perturbation, whose mixed derivatives (rows, 64, p) would not fit at once.
MIXED_BYTES = 1 << 30

warnings.filterwarnings("ignore")


def answer(work: Work) -> Answer:
    """See `Answer`."""
    train, test = work.train, work.test
    with _counted(len(train.targets)) as products:
        if "fitted" not in work.kept or not work.contestant.kept:
            work.kept["fitted"] = _influence(work).fit(_loader(work))
        fitted = work.kept["fitted"]
        factors = fitted.influence_factors(test.inputs, test.targets)
        result = _meet(work, fitted, factors)
    return Answer(result, factors, round(products[0]) if products[0] else None)


def _influence(work: Work) -> DirectInfluence | CgInfluence | LissaInfluence | ArnoldiInfluence:
    case, settings = work.case, work.settings
    given = (work.trained.model, cross_entropy, case.damping)
    if work.method == "direct":
        return DirectInfluence(*given)
    if work.method == "cg":
        if not settings["simultaneous"]:
            return CgInfluence(*given)
        # It stops at ‖r‖ ≤ max(rtol² ‖b‖, atol²): the tolerance meant is the root's square.
        rtol = math.sqrt(float(settings["rtol"]))
        rank = int(settings.get("nystroem", 0))
        helped = {"preconditioner": NystroemPreconditioner(rank)} if rank else {}
        return CgInfluence(*given, rtol=rtol, atol=NEVER, solve_simultaneously=True, **helped)
    if work.method == "lissa":
        return LissaInfluence(*given, maxiter=case.steps, scale=work.scale, rtol=NEVER)
    return ArnoldiInfluence(*given, rank=case.rank, tol=float(settings["tol"]))


def _meet(
    work: Work,
    fitted: DirectInfluence | CgInfluence | LissaInfluence | ArnoldiInfluence,
    factors: Tensor,
) -> Tensor:
    train = work.train
    if work.case.kind == "up":
        return fitted.influences_from_factors(factors, train.inputs, train.targets)
    rows = max(1, MIXED_BYTES // (4 * train.inputs[0].numel() * factors.shape[1]))
    parts = zip(train.inputs.split(rows), train.targets.split(rows), strict=True)
    mode = InfluenceMode.Perturbation
    return torch.cat([fitted.influences_from_factors(factors, x, y, mode) for x, y in parts], 1)


class _AtOnce(Dataset):
    """Rows that a loader fetches with one indexing a batch."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.rows.inputs[index], self.rows.targets[index]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.rows.inputs[indices], self.rows.targets[indices], strict=True))


def _loader(work: Work) -> DataLoader:
    rows = work.train
    size = int(work.settings.get("batch", len(rows.targets)))
    if work.settings.get("loader") == "rows":
        return DataLoader(TensorDataset(rows.inputs, rows.targets), size)
    if work.method == "lissa":  # it needs the loader's data set and batch size
        return DataLoader(_AtOnce(rows), size)
    data = TensorDataset(rows.inputs, rows.targets)
    batches = BatchSampler(SequentialSampler(data), size, drop_last=False)
    return DataLoader(data, batch_size=None, sampler=batches)


@contextmanager
def _counted(rows: int) -> Iterator[list[float]]:
    """Counts products with one vector over all rows."""
    counted = [0.0]
    plain = HessianBatchOperation.apply

    def counting(self: HessianBatchOperation, batch: object, tensor: Tensor) -> Tensor:
        vectors = tensor.shape[0] if tensor.ndim == 2 else 1
        counted[0] += vectors * len(batch.x) / rows
        return plain(self, batch, tensor)

    HessianBatchOperation.apply = counting
    try:
        yield counted
    finally:
        HessianBatchOperation.apply = plain
