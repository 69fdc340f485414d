"""The rows of the largest and the smallest products with a query, among numbers in 16 or 8 bits on the disk.

A small index is multiplied whole, a block at a time. Of a large one the leading numbers of each row come first, in 8
bits: little of what would be read. The rows that are strongest by these are then multiplied with all their numbers.
What that passes over is told with the index's recall, as what the cut costs is.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.storage.chunks import Chunks
from workers.engine import compressed
from workers.engine.progress import Progress, silent
from workers.jobs.indexing import looked_at

BLOCK_NUMBERS = 1 << 19  # brought to single precision at a time: what the caches hold
SCORES_BYTES = 64 * 1024**2  # of the products of some queries with all rows
COPIED_BYTES = 32 * 1024**2
SIGNS = ("helpful", "harmful")


@dataclass(frozen=True)
class Found:
    """Of m queries: rows (m, k) and products (m, k), the strongest first, of each sign."""

    rows: dict[str, Tensor]
    values: dict[str, Tensor]

    @classmethod
    def of(cls, scores: Tensor, count: int, places: Tensor | None = None) -> Found:
        """The best of scores (m, n), whose columns are all rows, or those at `places`."""
        count = min(count, scores.shape[1])
        best = {sign: scores.topk(count, 1, largest=sign == "helpful") for sign in SIGNS}
        rows = {sign: each.indices for sign, each in best.items()}
        if places is not None:
            rows = {sign: places[each] for sign, each in rows.items()}
        return cls(rows, {sign: each.values for sign, each in best.items()})

    @classmethod
    def joined(cls, parts: list[Found]) -> Found:
        """Of all queries."""
        rows = {sign: torch.cat([part.rows[sign] for part in parts]) for sign in SIGNS}
        return cls(rows, {sign: torch.cat([part.values[sign] for part in parts]) for sign in SIGNS})

    @property
    def every(self) -> Tensor:
        """All of their rows, each once, ascending."""
        rows = torch.cat([each.flatten() for each in self.rows.values()])
        return torch.from_numpy(np.unique(rows.numpy()))


@dataclass(frozen=True)
class Searched:
    """Numbers (n, width) float16 or int8, mapped from a file that has no name any more, and a factor (n,) for each row.

    `lead` (n, l) int8 are the numbers at `leading`, mapped likewise, each row times its `lead_factors` (n,), where the
    index is large.
    """

    numbers: Tensor
    factors: Tensor
    leading: Tensor | None = None
    lead: Tensor | None = None
    lead_factors: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """In memory: what is mapped is not counted."""
        return sum(each.nbytes for each in (self.factors, self.lead_factors) if each is not None)

    @classmethod
    def copied(
        cls,
        matrix: Chunks,
        factors: Tensor,
        leading: Tensor,
        scratch: Path,
        progress: Progress = silent,
    ) -> Searched:
        """From the object storage. The files go with the last who has them mapped, however that ends."""
        rows, width = matrix.shape
        if not rows * width:
            return cls(torch.empty((rows, width)), factors)
        large = looked_at(rows, width, 1) is not None
        columns = leading.numpy()
        with (
            tempfile.TemporaryFile(dir=scratch) as whole,
            tempfile.TemporaryFile(dir=scratch) as part,
        ):
            first = 0
            lead_factors = torch.empty(rows)
            for block in matrix.blocks(range(rows), range(width), COPIED_BYTES):
                progress("copy", first, rows, "rows")
                whole.write(np.ascontiguousarray(block).data)
                if large:
                    here = slice(first, first + len(block))
                    values = torch.from_numpy(block[:, columns].astype(np.float32))
                    lead, scale = compressed(values, torch.int8)
                    part.write(np.ascontiguousarray(lead.numpy()).data)
                    lead_factors[here] = scale * factors[here]
                first += len(block)
            numbers = _mapped(whole, matrix.dtype.newbyteorder("="), (rows, width))
            if not large:
                return cls(numbers, factors)
            leads = _mapped(part, np.int8, (rows, len(columns)))
            return cls(numbers, factors, leading, leads, lead_factors)

    def best(self, queries: Tensor, count: int) -> Found:
        """Of queries (m, width) float32, `count` rows of each sign."""
        total, width = self.numbers.shape
        looked = looked_at(total, width, count)
        if looked is not None and self.lead is not None:
            return Found.joined(
                [self._by_lead(query, count, looked) for query in torch.split(queries, 1)]
            )
        together = max(1, SCORES_BYTES // (4 * max(1, total)))
        return Found.joined([self._whole(each, count) for each in torch.split(queries, together)])

    def _by_lead(self, query: Tensor, count: int, looked: int) -> Found:
        """Of one query (1, width)."""
        assert self.lead is not None
        assert self.leading is not None
        assert self.lead_factors is not None
        rough = _products(self.lead, query[:, self.leading], self.lead_factors)
        places = Found.of(rough, looked).every
        step = max(1, BLOCK_NUMBERS // max(1, self.numbers.shape[1]))
        # index_select takes rows several times as fast as [] does.
        products = [
            torch.mv(self.numbers.index_select(0, some).float(), query[0])
            for some in torch.split(places, step)
        ]
        return Found.of((torch.cat(products) * self.factors[places])[None], count, places)

    def _whole(self, queries: Tensor, count: int) -> Found:
        return Found.of(_products(self.numbers, queries, self.factors), count)


def _products(numbers: Tensor, queries: Tensor, factors: Tensor) -> Tensor:
    """(m, n) of queries (m, width) with numbers (n, width) of 16 or 8 bits, each row times its factor."""
    total, width = numbers.shape
    scores = torch.empty((total, len(queries)))
    step = max(1, BLOCK_NUMBERS // max(1, width))
    columns = queries.T.contiguous()
    for start in range(0, total, step):
        block = numbers[start : start + step].float()
        torch.mm(block, columns, out=scores[start : start + step])
    return (scores * factors[:, None]).T.contiguous()


def _mapped(file: Any, dtype: Any, shape: tuple[int, int]) -> Tensor:
    file.flush()
    return torch.from_numpy(np.memmap(file, dtype, "c", shape=shape))
