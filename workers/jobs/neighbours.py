"""How much another λ changes the order of the scores: rank correlation between neighbouring λ's of a list.

Spearman's coefficient of a test row's scores (of a training row's on itself, for self-influences), the mean over test
rows. Of a large result it is that of a sample, evenly spaced over test rows, training rows and the entries of an
influence: it depends on their numbers alone, never on how the job is cut.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor

from workers.jobs.plan import Plan

MOST_TEST_ROWS = 64
MOST_TRAIN_ROWS = 4096
MOST_ENTRIES = 1 << 14  # of training rows times entries of an influence
MOST_OF_SELF = 1 << 16


@dataclass(frozen=True)
class Sample:
    """Every so many-th test row, training row, and entry of an influence."""

    test: int
    train: int
    entry: int

    @classmethod
    def of(cls, plan: Plan) -> Sample:
        """Of a job's scores."""
        train = _stride(plan.train.total, MOST_TRAIN_ROWS)
        rows = -(-plan.train.total // train)
        entries = _stride(prod(plan.trailing), max(1, MOST_ENTRIES // rows))
        return cls(_stride(plan.test.total, MOST_TEST_ROWS), train, entries)

    def taken(self, first_test: int, first_train: int, block: Tensor) -> Tensor:
        """(L, m', n', e) on the host, of a block (L, m, n, …) whose rows are these of the whole."""
        block = block[:, -first_test % self.test :: self.test]
        block = block[:, :, -first_train % self.train :: self.train]
        return (
            block.flatten(3)[..., :: self.entry].cpu() if block.ndim > 3 else block[..., None].cpu()
        )

    def in_words(self, plan: Plan) -> str:
        """What was compared, for people."""
        whole = (plan.test.total, plan.train.total)
        taken = (-(-whole[0] // self.test), -(-whole[1] // self.train))
        entries = "" if self.entry == 1 else f", every {self.entry}th entry"
        if taken == whole and not entries:
            return "Spearman's coefficient of a test row's scores, the mean over all test rows"
        return (
            f"Spearman's coefficient of a test row's scores, the mean over {taken[0]:,} of {whole[0]:,} test rows, "
            f"with {taken[1]:,} of {whole[1]:,} training rows, evenly spaced{entries}"
        )


def _stride(total: int, most: int) -> int:
    return max(1, -(-total // most))


def correlated(blocks: Iterable[Tensor], how: str) -> dict[str, Any]:
    """For the info: the coefficient of each pair of neighbours, from blocks (L, m', c) of whole test rows."""
    sums: list[float] = []
    counts: list[int] = []
    for block in blocks:
        ranks = [[_ranks(row) for row in layer] for layer in block]
        pairs = list(pairwise(ranks))
        sums = sums or [0.0] * len(pairs)
        counts = counts or [0] * len(pairs)
        for number, (before, after) in enumerate(pairs):
            for first, second in zip(before, after, strict=True):
                size = torch.linalg.vector_norm(first) * torch.linalg.vector_norm(second)
                if float(size) > 0.0:  # else all scores of a row are the same, and have no order
                    sums[number] += float(first @ second / size)
                    counts[number] += 1
    found = [total / count if count else None for total, count in zip(sums, counts, strict=True)]
    return {"neighbours": found, "how": how}


def _ranks(values: Tensor) -> Tensor:
    """(c,) float64, less their mean; equal values share the mean of their ranks."""
    _, which, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    shared = last - (counts.double() - 1.0) / 2.0
    ranks = shared[which]
    return ranks - ranks.mean()
