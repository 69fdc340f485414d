"""How far the answers by an index's numbers are from exact ones, on a sample of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from service.jobs.counts import rhs_bytes
from upweight.schema import IndexJob
from workers import engine
from workers.jobs.blocks import Solved
from workers.jobs.neighbours import correlated
from workers.jobs.steps import Steps, spaced
from workers.jobs.stored_index import StoredIndex

QUERIES, SAMPLED = 16, 4096  # rows whose answers are compared
AT = 20  # what recall is told of
USUAL_CANDIDATES = 500  # of a query
# An index of more numbers is searched by the LEADING ones of each row first, in 8 bits, and only so many rows of each
# sign by all. Many of these and few rows find more than the reverse. Of 60,000 rows of 2,378 numbers, two data sets,
# 0.86 and 0.97 of the 20 strongest by all numbers are found; 0.68 and 0.75 by 128 numbers in 32 bits and 2,048 rows,
# which takes as long.
SEARCHED_WHOLE, LEADING, LOOKED_AT = 1 << 25, 512, 1024


def looked_at(total: int, width: int, count: int) -> int | None:
    """Rows of each sign that are looked at with all their numbers, to find `count`; None: every row."""
    if total * width <= SEARCHED_WHOLE or width <= LEADING:
        return None
    return min(total, max(LOOKED_AT, 4 * count))


def compared(steps: Steps, index: StoredIndex, budget: int) -> tuple[Solved, dict[str, Any]]:
    """Answers by the numbers beside exact ones, on a sample of the training rows that asks for one another.

    Also what solving for the sample's rows has told of the curvature.
    """
    problem, total = steps.inputs.problem, steps.plan.train.total
    most = budget // rhs_bytes(problem.size * problem.dtype.itemsize, 1)
    asking = spaced(total, max(1, min(QUERIES, most)))
    among = spaced(total, SAMPLED)
    solved = steps.solved_sample(asking)
    exact = steps.exact_sample(solved.x[0], among).cpu()
    mine, theirs = index.read(asking.tolist()), index.read(among.tolist())
    found, rough = mine @ theirs.T, None
    looked = looked_at(total, index.width, USUAL_CANDIDATES // 2)
    if looked is not None:
        leading = steps.embedding.leading(LEADING)
        few, factors = engine.compressed(theirs[:, leading], torch.int8)
        rough = mine[:, leading] @ (few.float() * factors[:, None]).T
        looked = max(AT, round(looked * len(among) / total))
    candidates = min(len(among), max(2 * AT, round(USUAL_CANDIDATES * len(among) / total)))
    told = {
        "rows": total,
        "numbers": steps.embedding.width,
        **_projected(steps),
        "stored_as": str(index.matrix.dtype.newbyteorder("=")),
        **agreement(found, exact, asking[:, None] == among, candidates, rough, looked),
        "sample": f"{len(asking)} training rows, each beside {len(among):,} of {total:,} without itself, evenly spaced",
    }
    return solved, told


def _projected(steps: Steps) -> dict[str, Any]:
    assert isinstance(steps.request, IndexJob)
    return {"projection": steps.request.projection.method, **steps.embedding.described}


def agreement(
    found: Tensor,
    exact: Tensor,
    same: Tensor,
    candidates: int,
    rough: Tensor | None,
    looked: int | None,
) -> dict[str, Any]:
    """Of scores (m, s) by the numbers and exact ones; `same` (m, s) are left out.

    `rough`: by the leading numbers alone, of which the first `looked` of each sign are candidates.
    """
    before: list[float] = []
    after: list[float] = []
    pairs: list[Tensor] = []
    for at, (mine, theirs, itself) in enumerate(zip(found, exact, same, strict=True)):
        pair = torch.stack([mine[~itself].double(), theirs[~itself].double()])
        pairs.append(pair)
        first = None if rough is None or looked is None else rough[at][~itself].double()
        k = min(AT, pair.shape[1])
        if not k:
            continue
        for sign in (1.0, -1.0):
            best = set((sign * pair[1]).topk(k).indices.tolist())
            width = min(pair.shape[1], max(k, candidates // 2))
            mine = sign * pair[0]
            if first is not None and looked is not None and looked < len(first):
                passed_over = (sign * first).sort(descending=True).indices[looked:]
                mine = mine.index_fill(0, passed_over, -torch.inf)
            ordered = mine.topk(width).indices.tolist()
            before.append(len(best.intersection(ordered[:k])) / k)
            after.append(len(best.intersection(ordered)) / k)
    alike = [
        each
        for each in (correlated([pair[:, None]], "")["neighbours"][0] for pair in pairs)
        if each is not None
    ]
    return {
        "recall_at": AT,
        "recall": _mean(before),
        "recall_after_rerank": _mean(after),
        "candidates": candidates,
        "rank_correlation": _mean(alike),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
