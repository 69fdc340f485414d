"""A job as the engine's steps: right-hand sides, inversion, contraction. No reading, no storing: `Sink` takes what
comes out."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from upweight.schema import InfluencesJob, SelfInfluencesJob
from upweight.schema import job as contract
from workers import engine
from workers.engine import Hessian, Problem, Progress, Solution, TensorRows
from workers.fits import Fits, Solve
from workers.inversions import Guess, described, engine_method, low_precision

AnyJob = InfluencesJob | contract.FactorsJob | contract.IhvpJob | SelfInfluencesJob
ColumnBlock = tuple[slice, Tensor]


class Sink(Protocol):
    """Where results go, as they come."""

    def info(self, arrays: dict[str, Tensor]) -> None: ...
    def factors(self, factors: Tensor) -> None: ...
    def influences(self, blocks: Iterator[ColumnBlock], rows: int, columns: int) -> None: ...
    def self_influences(self, values: Tensor) -> None: ...


@dataclass(frozen=True)
class Material:
    """What a job computes with, on the device. `rhs` and `factors` are given where they are not computed."""

    problem: Problem
    hessian_rows: TensorRows
    train: TensorRows
    test: TensorRows | None
    rhs: Tensor | None
    factors: Tensor | None
    guess: Guess
    fits: Fits
    perturb_input: int = 0


@dataclass
class Outcome:
    """What the record says of the computation."""

    summary: dict[str, Any] = field(default_factory=dict)
    passes: float = 0.0
    seconds: float = 0.0
    peak_memory_bytes: int | None = None


def compute(
    request: AnyJob, material: Material, budget: int, progress: Progress, sink: Sink
) -> Outcome:
    """Runs the job. Raises EngineError, and whatever `progress` raises."""
    began = time.perf_counter()
    device = material.problem.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    hessian = Hessian(
        material.problem,
        material.hessian_rows,
        request.hessian_regularization,
        batch_size=request.batch_size,
        budget_bytes=budget,
        progress=progress,
    )
    run = _Run(request, material, budget, progress, sink, hessian)
    summary = (
        run.self_influences()
        if isinstance(request, SelfInfluencesJob)
        else run.factors_and_influences()
    )
    return Outcome(
        summary, float(hessian.passes), time.perf_counter() - began, _peak_memory(device)
    )


@dataclass(frozen=True)
class _Run:
    request: AnyJob
    material: Material
    budget: int
    progress: Progress
    sink: Sink
    hessian: Hessian

    def factors_and_influences(self) -> dict[str, Any]:
        summary: dict[str, Any] = {"reused": True}
        factors = self.material.factors
        if factors is None:
            solution = self._solution()
            summary, arrays = described(solution)
            self.sink.info(arrays)
            factors = solution.x
        summary |= self._low_precision_summary(factors)
        if not isinstance(self.request, InfluencesJob) or self.request.keep.factors:
            self.sink.factors(factors)
        if isinstance(self.request, InfluencesJob):
            self.sink.influences(
                self._blocks(self.request, factors), len(factors), len(self.material.train)
            )
        return summary

    def _low_precision_summary(self, factors: Tensor) -> dict[str, Any]:
        precision = low_precision(self.request.precision)
        if precision == "full":
            return {}
        found = engine.low_precision_agreement(
            self.material.problem, factors, self.material.train, precision
        )
        said = {"low_precision_correlation": found.correlation}
        return said | ({"warning": found.warning} if found.warning else {})

    def _solution(self) -> Solution:
        return self._solver()(self._right_hand_sides())

    def _solver(self) -> Solve:
        method = engine_method(self.request.inversion, self.request.seed, self.material.guess)
        return self.material.fits.solver(method, self.hessian, self.progress)

    def _right_hand_sides(self) -> Tensor:
        if self.material.rhs is not None:
            return self.material.rhs
        assert self.material.test is not None
        problem, test = self.material.problem, self.material.test
        rhs = torch.empty((len(test), problem.size), dtype=problem.dtype, device=problem.device)
        for rows, block in engine.row_gradients(problem, test, **self._options()):
            rhs[rows] = block
        return rhs

    def _options(self) -> dict[str, Any]:
        return {
            "batch_size": self.request.batch_size,
            "budget_bytes": self.budget,
            "progress": self.progress,
        }

    def _blocks(self, request: InfluencesJob, factors: Tensor) -> Iterator[ColumnBlock]:
        problem, train = self.material.problem, self.material.train
        if request.influence_type == "up":
            precision = low_precision(request.precision)
            return engine.up(problem, factors, train, precision=precision, **self._options())
        if request.perturb_at is not None:
            return engine.perturb_at(
                problem, factors, train, module=request.perturb_at, **self._options()
            )
        return engine.perturbation(
            problem, factors, train, input=self.material.perturb_input, **self._options()
        )

    def self_influences(self) -> dict[str, Any]:
        problem, train = self.material.problem, self.material.train
        solve = self._solver()
        last: list[Solution] = []

        def remembered(rhs: Tensor) -> Solution:
            last[:] = [solve(rhs)]
            return last[0]

        values = torch.empty(len(train), dtype=problem.dtype, device=problem.device)
        for rows, block in engine.self_influence(problem, remembered, train, **self._options()):
            values[rows] = block
        summary, arrays = described(last[0])
        self.sink.info(arrays)
        self.sink.self_influences(values)
        return summary


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
