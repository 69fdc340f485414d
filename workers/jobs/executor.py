"""The one executor of a plan: block by block, over a store in memory or in the object storage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from workers.fits.store import Tensors
from workers.jobs.blocks import Cost
from workers.jobs.finish import Finish
from workers.jobs.plan import BEFORE_FIT, Stage
from workers.jobs.steps import Steps
from workers.jobs.store import BlockStore


@dataclass(frozen=True)
class Executor:
    """The blocks of one job. A stage's blocks may be done in any order, after those of the stages before it."""

    steps: Steps
    store: BlockStore

    def execute(self, stage: Stage, number: int, confirm: Callable[[], None]) -> tuple[str, Cost]:
        """Computes a block and stores it, if `confirm` does not raise in between.

        Answers the digest of the block's object, and what computing it cost.
        """
        with self.steps.measured() as cost:
            store = self._computed(stage, number)
        confirm()
        return store(), cost

    def execute_all(self) -> Cost:
        """Every block in order, but `finish`: what they cost together."""
        with self.steps.measured() as cost:
            for stage, count in self.steps.plan.stages().items():
                # The fit asks for the sums, and only if it is not there yet.
                if stage not in (*BEFORE_FIT, "finish"):
                    for number in range(count):
                        self._computed(stage, number)()
        return cost

    def finish(self, described: dict[str, Any]) -> dict[str, Any]:
        """Merges what the blocks left and writes the manifest: `info`, `result` and `verdict` of the record."""
        return Finish(self.steps, self.store).run(described)

    def _before_fit(self, stage: Stage, number: int) -> Callable[[], str]:
        """One part of what the fit is made of; nothing where another job has made it meanwhile."""
        steps, store = self.steps, self.store
        if stage == "sums":
            sums = steps.partial_sums(number)
            return lambda: store.put_sums(number, sums)
        if store.is_fitted:
            return str
        if stage == "rotate":
            rotation = steps.rotation(store.sums(steps.partial_sums))
            return lambda: store.put_rotation(rotation)
        squares = steps.squares(number, self._rotation())
        return lambda: store.put_squares(number, squares)

    def _rotation(self) -> Tensors:
        return self.store.rotation(
            lambda: self.steps.rotation(self.store.sums(self.steps.partial_sums))
        )

    def _sums(self) -> Iterator[Tensors]:
        """All that the fit is a sum of, part by part; nothing is computed or read before it is asked for."""
        steps, store = self.steps, self.store
        if not steps.plan.rotates:
            yield from store.sums(steps.partial_sums)
            return
        rotation = self._rotation()
        parts = store.squares(lambda number: steps.squares(number, rotation))
        yield {**rotation, **next(parts)}
        yield from parts

    def _computed(self, stage: Stage, number: int) -> Callable[[], str]:
        """Computes, and answers what stores it."""
        steps, store = self.steps, self.store
        match stage:
            case "sums" | "rotate" | "squares":
                return self._before_fit(stage, number)
            case "fit":  # which stores what it makes by itself
                steps.fit(self._sums() if steps.plan.hessian else None)
                store.drop_sums()
                return str
            case "solve":
                solved = steps.solve(number)
                return lambda: store.put_solved(number, solved)
            case "contract" if steps.request.is_self:
                block = steps.self_influences(number)
                return lambda: store.put_self_influences(number, block)
            case "contract" if steps.request.is_index:
                index = steps.indexed(number)
                return lambda: store.put_index(number, index)
            case "contract":
                test, _ = steps.plan.contraction(number)
                scores = steps.scores(store.test_factors(test), number)
                return lambda: store.put_scores(number, scores)
            case "predict":
                return lambda: steps.predict(number, store.writer)
            case "finish":
                raise ValueError("finish is not a block to compute")


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """So many CPU threads of torch, whatever this worker is set to; its own number afterwards.

    Sums are cut among threads, so that their number decides the last bits.
    """
    own = torch.get_num_threads()
    if threads == own:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(own)
