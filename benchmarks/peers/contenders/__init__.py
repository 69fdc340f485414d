"""One file a library: each makes its objects anew in every call, as a first caller would.

A contestant that is `kept` makes them in the first call, and gives every call other test rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from torch import Tensor

from benchmarks.peers.cases import Case, Contestant, Method, Settings
from benchmarks.peers.problem import Rows, Trained


@dataclass(frozen=True)
class Work:
    """What a library is to do, the same for all: rows of the case's length, float32."""

    case: Case
    contestant: Contestant
    trained: Trained
    scale: float  # of lissa
    block: int = 0  # of test rows, each as long as the case has it
    kept: dict[str, Any] = field(default_factory=dict)  # from call to call

    @property
    def method(self) -> Method:
        """How this library does it."""
        return self.case.method_of(self.contestant)

    @property
    def settings(self) -> Settings:
        """What this library is told."""
        return self.contestant.settings

    @property
    def train(self) -> Rows:
        """The training rows."""
        return self.trained.train.first(self.case.n)

    @property
    def test(self) -> Rows:
        """The test rows of this call."""
        return self.trained.test.block(self.case.m, self.block)


@dataclass(frozen=True)
class Answer:
    """`influence` (m, n) or (m, n, 64); factors (m, p) where the library gives them."""

    influence: Tensor
    factors: Tensor | None = None
    products: int | None = None  # Hessian products with one vector and all rows, if known
    notes: str = ""


Contender = Callable[[Work], Answer]


def contender(library: str) -> Contender:
    """Import the library, which is part of no measured time."""
    return import_module(f"{__name__}.by_{library}").answer
