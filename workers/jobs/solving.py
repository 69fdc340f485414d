"""What the engine finds out about the curvature of a job, and solves for each block of right-hand sides."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from service.storage.row_blocks import layers
from upweight.schema import AttributionJob
from workers import engine
from workers.engine import Curvature, Over, Progress, Solution, make_curvature
from workers.engine.inversion.damping import Measured, measured, of_blocks
from workers.engine.operators import ClosedForm, Explicit
from workers.fits.fits import Fits, SolveEach
from workers.fits.store import Tensors
from workers.jobs.asked_damping import asked_of_fit, by_blocks
from workers.jobs.blocks import Cost, Solved, Window, numbered_from, peak_memory
from workers.jobs.inputs import JobInputs
from workers.jobs.plan import Plan

MATRIX = "matrix"


class Solving:
    """The steps as far as solutions, in any order. Each may raise EngineError, and whatever `progress` raises."""

    def __init__(
        self, request: AttributionJob, inputs: JobInputs, plan: Plan, fits: Fits, progress: Progress
    ) -> None:
        self.request, self.inputs, self.plan = request, inputs, plan
        self._fits = fits
        self._progress = progress
        self._curvatures: list[
            tuple[Curvature, float]
        ] = []  # with the part of the rows that each is over
        self._passes = 0.0  # of those before
        self._gradient_rows = 0

    @contextmanager
    def measured(self) -> Iterator[Cost]:
        """What is done in this block of code; filled in at its end."""
        cost, began, device = Cost(), time.perf_counter(), self.inputs.problem.device
        self._curvatures.clear()
        self._passes, self._gradient_rows = 0.0, 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        yield cost
        self._done_with_curvatures()
        cost.passes = self._passes
        cost.gradient_rows = self._gradient_rows
        cost.seconds = time.perf_counter() - began
        cost.peak_memory_bytes = peak_memory(device)

    def _done_with_curvatures(self) -> None:
        """Counts their passes and lets go of them: each holds what a pass has kept for its next one."""
        self._passes += float(sum(each.passes * part for each, part in self._curvatures))
        self._curvatures.clear()

    def _curvature(self, window: Window | None = None) -> Curvature:
        """Over a window of the rows, or all. A new one each time: what one remembers must not matter to the next."""
        over = Over(
            self.inputs.problem,
            self.inputs.hessian_rows if window is None else window,
            seed=self.request.seed,
            first_row=0 if window is None else window.start,
            whole=self.inputs.hessian_rows,
            mask_input=self.inputs.mask_input,
            keep=self._kept_labels if window is None else None,
            **self._options(),
        )
        asked = self.request.curvature
        found = make_curvature(over, asked.kind, asked.structure)
        part = 1.0 if window is None else len(window) / len(window.rows)
        self._curvatures.append((found, part))
        return found

    def _kept_labels(self, draw: Callable[[], Tensor]) -> Tensor:
        """Labels of all rows, drawn once a worker and not once a block."""
        labels: Tensor = self.inputs.kept_of_curvature(
            f"labels-{self.request.seed}", lambda: _sized(draw())
        )
        return labels

    def _in_closed_form(self) -> Curvature:
        """Over all rows, by its eigenvectors where these are known: once for all blocks, methods and λ's."""
        curvature = self._curvature()
        if self.request.curvature.structure == "full":
            return curvature
        make = self._earlier_form or (lambda: _closed(curvature))
        return curvature.known_by(self._fits.closed_form(make))

    def _options(self) -> dict[str, Any]:
        return {
            "batch_size": self.request.batch_size,
            "budget_bytes": self.plan.budget_bytes,
            "progress": self._progress,
        }

    def partial_sums(self, number: int) -> Tensors:
        """The curvature's sums over one block of the training rows."""
        assert self.plan.hessian is not None
        rows = self.plan.hessian.block(number)
        window = Window(self.inputs.hessian_rows, rows.start, rows.stop)
        with numbered_from(rows.start):
            return self._curvature(window).partial_sums()

    def rotation(self, partial: Iterator[Tensors]) -> Tensors:
        """The eigenvectors of the first sums, for the second ones."""
        return self._curvature().rotation(_added_up(partial))

    def squares(self, number: int, rotation: Tensors) -> Tensors:
        """The curvature's second sums over one block of the training rows."""
        assert self.plan.hessian is not None
        rows = self.plan.hessian.block(number)
        window = Window(self.inputs.hessian_rows, rows.start, rows.stop)
        with numbered_from(rows.start):
            return self._curvature(window).second_sums(rotation)

    def measured_curvature(self, *, ends: bool) -> Measured:
        """The mean eigenvalue of H, and with `ends` more of its spectrum; kept on the worker, as a built H is.

        Where H is to be built anyway, it is built now, and the fit takes it.
        """

        def made() -> tuple[Measured, int]:
            curvature: Curvature = self._in_closed_form()
            if self.request.building and self.plan.hessian is None:
                curvature = Explicit(curvature, self._matrix(curvature))
            found = measured(
                curvature,
                ends=ends,
                seed=self.request.seed,
                budget_bytes=self.plan.budget_bytes,
                progress=self._progress,
            )
            return found, 0 if found.nodes is None else found.nodes.nbytes

        return self.inputs.kept_of_curvature(f"measured-{ends}-{self.request.seed}", made)

    def _matrix(self, curvature: Curvature) -> Tensor:
        matrix: Tensor = self.inputs.kept_of_curvature(MATRIX, lambda: _sized(curvature.dense()))
        return matrix

    def fit(self, partial: Iterator[Tensors] | None = None) -> None:
        """Makes what the inversion finds out about H, or finds it; from partial sums where it was cut."""

        def summed() -> Curvature:
            curvature = self._curvature()
            return curvature if partial is None else curvature.of_sums(_added_up(partial))

        def curvature() -> Curvature:
            if self.request.curvature.structure != "full":
                return self._in_closed_form()
            matrix = self.inputs.held_of_curvature(MATRIX)
            whole = summed()
            return whole if matrix is None or partial is not None else Explicit(whole, matrix)

        if self.request.curvature.structure != "full":
            self._fits.closed_form(self._earlier_form or (lambda: _closed(summed())))
        self._fits.prepare(curvature, self._progress)

    def closed_form(self) -> ClosedForm:
        """A curvature that is known by its eigenvectors, before any λ."""
        make = self._earlier_form or (lambda: _closed(self._curvature()))
        return self._fits.closed_form(make)

    @property
    def _earlier_form(self) -> Callable[[], ClosedForm] | None:
        """That of an earlier index which this one extends."""
        earlier, device = self.inputs.extended, self.inputs.problem.device
        return None if earlier is None else (lambda: earlier.form(device))

    @cached_property
    def dampings(self) -> tuple[float, ...]:
        """The λ's as numbers; where each block has its own, their means."""
        if not by_blocks(self.request):
            return self.request.dampings
        form = self.closed_form()
        return tuple(of_blocks(form, asked).mean for asked in asked_of_fit(self.request))

    def fit_name(self) -> str | None:
        """What the fit is called in a store; None where there is none."""
        return self._fits.name

    def of_fit(self) -> Tensors:
        """What the inversion found out about H, from a fit that is there."""
        if self.request.inversion.answer == "iterative":
            return {}
        problem = self.inputs.problem
        rhs = torch.zeros((1, problem.size), dtype=problem.dtype, device=problem.device)
        return self._described(self._solver(slice(0, 0))(rhs), rhs).of_fit

    def solve(self, number: int) -> Solved:
        """One block of right-hand sides."""
        rows = self.plan.rhs.block(number)
        rhs = self._right_hand_sides(rows)
        found = self._described(self._solver(rows)(rhs), rhs)
        self._done_with_curvatures()
        return found

    def _solver(self, rows: slice) -> SolveEach:
        """With each λ, and the rows' part of a first guess."""
        guess = self.inputs.guess
        given = (
            lambda digest, name: guess(digest, name, rows),
            self._solved_with,
            self._progress,
        )
        if self.request.has_damping_axis:
            return self._fits.solver_of_each(asked_of_fit(self.request), *given)
        solve = self._fits.solver(*given)
        return lambda rhs: [solve(rhs)]

    def _solved_with(self) -> Curvature:
        """What a method multiplies with, where it does: one that builds C has all that it needs in its fit."""
        return self._curvature() if self.request.inversion.builds_matrix else self._in_closed_form()

    def _described(self, solutions: Sequence[Solution], rhs: Tensor) -> Solved:
        summaries = [
            {"curvature_share": each.curvature_share(rhs, damping), **each.summary}
            for each, damping in zip(solutions, self.dampings, strict=True)
        ]
        of_rows: dict[str, list[Tensor]] = {}
        of_fit: dict[str, list[Tensor]] = {}
        for solution in solutions:
            for name, value in solution.arrays.items():
                found = of_rows if name in solution.rowwise else of_fit
                found.setdefault(name, []).append(value)
        return Solved(
            torch.stack([each.x for each in solutions]),
            {name: torch.stack(each) for name, each in of_rows.items()},
            dict(_once_where_alike(of_fit)),
            summaries,
        )

    def _right_hand_sides(self, rows: slice) -> Tensor:
        if self.inputs.rhs is not None:
            return self.inputs.rhs(rows)
        assert self.inputs.test is not None
        problem = self.inputs.problem
        window = Window(self.inputs.measured_rows, rows.start, rows.stop)
        rhs = torch.empty((len(window), problem.size), dtype=problem.dtype, device=problem.device)
        with numbered_from(rows.start):
            measured = self.inputs.measured
            for here, block in engine.row_gradients(measured, window, **self._options()):
                rhs[here] = block
        return rhs


def _closed(curvature: Curvature) -> ClosedForm:
    found = curvature.closed_form()
    assert found is not None
    return found


def _sized(tensor: Tensor) -> tuple[Tensor, int]:
    return tensor, tensor.nbytes


def _added_up(partial: Iterator[Tensors]) -> Tensors:
    """In the plan's order."""
    total = {name: each.clone() for name, each in next(partial).items()}
    for sums in partial:
        for name, each in sums.items():
            total[name] += each
    return total


def _once_where_alike(found: Mapping[str, Sequence[Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """What was found out about H with each λ: once where that is the same, else under the λ's number."""
    for name, (first, *others) in found.items():
        if all(each is first or torch.equal(each, first) for each in others):
            yield name, first
        else:
            yield from zip(layers(name, 1 + len(others)), (first, *others), strict=True)
