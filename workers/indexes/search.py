"""The rows of the largest and the smallest products with a query, among numbers in half precision on the disk.

Every row is looked at: a block is brought to single precision in the caches and multiplied there, which is as fast as
the memory is read. What the numbers were cut to is the only loss, and the index's info tells it.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from service.storage.chunks import Chunks

BLOCK_NUMBERS = 1 << 19  # brought to single precision at a time: a few MiB, which the caches hold
SCORES_BYTES = 64 * 1024**2  # of the products of some queries with all rows
COPIED_BYTES = 32 * 1024**2


@dataclass(frozen=True)
class Found:
    """Of m queries: rows (m, k) and products (m, k), the strongest first, of each sign."""

    rows: dict[str, Tensor]
    values: dict[str, Tensor]


@dataclass(frozen=True)
class Searched:
    """Numbers (n, width) float16, mapped from a file that has no name any more, and a factor (n,) for each row."""

    numbers: Tensor
    factors: Tensor

    @classmethod
    def copied(cls, matrix: Chunks, factors: Tensor, scratch: Path) -> Searched:
        """From the object storage. The file goes with the last who has it mapped, however that ends."""
        rows, width = matrix.shape
        if not rows * width:
            return cls(torch.empty((rows, width), dtype=torch.float16), factors)
        with tempfile.TemporaryFile(dir=scratch) as file:
            for block in matrix.blocks(range(rows), range(width), COPIED_BYTES):
                file.write(np.ascontiguousarray(block, dtype=np.float16).data)
            file.flush()
            mapped = np.memmap(file, np.float16, "c", shape=(rows, width))
        return cls(torch.from_numpy(mapped), factors)

    def best(self, queries: Tensor, count: int) -> Found:
        """Of queries (m, width) float32, `count` rows of each sign."""
        total = len(self.numbers)
        count = min(count, total)
        together = max(1, SCORES_BYTES // (4 * max(1, total)))
        parts = [
            self._best(queries[first : first + together], count)
            for first in range(0, len(queries), together)
        ]
        signs = parts[0].rows
        return Found(
            {sign: torch.cat([part.rows[sign] for part in parts]) for sign in signs},
            {sign: torch.cat([part.values[sign] for part in parts]) for sign in signs},
        )

    def _best(self, queries: Tensor, count: int) -> Found:
        total, width = self.numbers.shape
        scores = torch.empty((total, len(queries)))
        step = max(1, BLOCK_NUMBERS // max(1, width))
        columns = queries.T.contiguous()
        for start in range(0, total, step):
            block = self.numbers[start : start + step].float()
            torch.mm(block, columns, out=scores[start : start + step])
        products = (scores * self.factors[:, None]).T.contiguous()
        helpful, harmful = products.topk(count, 1), products.topk(count, 1, largest=False)
        return Found(
            {"helpful": helpful.indices, "harmful": harmful.indices},
            {"helpful": helpful.values, "harmful": harmful.values},
        )
