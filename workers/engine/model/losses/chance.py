"""Random numbers of rows, each row's its own: they depend on the seed and the row's number alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chance:
    """For the rows with these numbers. Drawn on the CPU, in float64: every device has the same."""

    seed: int
    rows: range

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """In [0, 1): (B, *shape), for B rows."""
        return self._each(
            lambda _, generator: torch.rand(tuple(shape), generator=generator, dtype=torch.float64)
        )

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Of mean 0 and variance 1: (B, *shape), for B rows."""
        return self._each(
            lambda _, generator: torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
        )

    def poisson(self, rates: Tensor) -> Tensor:
        """Counts with these rates (B, ...)."""
        found = rates.detach().double().cpu()
        return self._each(lambda row, generator: torch.poisson(found[row], generator=generator))

    def _each(self, draw: Callable[[int, torch.Generator], Tensor]) -> Tensor:
        generator = torch.Generator()
        drawn: list[Tensor] = []
        for place, number in enumerate(self.rows):
            generator.manual_seed(seed_of(self.seed, number))
            drawn.append(draw(place, generator))
        return torch.stack(drawn)


def seed_of(seed: int, row: int) -> int:
    """Of a row's generator: rows in order must not have seeds in order, which begin alike."""
    words = f"{seed} {row}".encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest()) >> 1
