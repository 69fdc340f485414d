"""What the engine does for each block of a job. A block's numbers depend on the plan alone."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from service.jobs.counts import rhs_bytes
from service.settings import MIB
from service.storage.row_blocks import layers
from upweight.schema import AttributionJob, IndexJob, InfluencesJob
from workers import engine
from workers.engine import (
    Batch,
    Curvature,
    Embedding,
    NotFinite,
    Over,
    Precision,
    Progress,
    Rows,
    Solution,
    Unweighted,
    make_curvature,
)
from workers.engine.autodiff.select import PROBE_ROWS
from workers.engine.curvature.structured.blocks import Spectral
from workers.engine.inversion.damping import Measured, measured, of_blocks
from workers.engine.model.rows import ChosenRows
from workers.engine.operators import ClosedForm, Explicit
from workers.engine.scores.leverage import Roots
from workers.fits.fits import Fits, SolveEach
from workers.fits.store import Tensors
from workers.jobs.asked_damping import asked_of_fit, by_blocks, damped
from workers.jobs.inputs import JobInputs
from workers.jobs.merge import Ranking, merged_summary, sum_of_rows
from workers.jobs.neighbours import Sample
from workers.jobs.plan import Plan
from workers.jobs.predictions import store_predictions
from workers.jobs.rescaling import Rescaling
from workers.jobs.results import ResultWriter
from workers.jobs.table import Table

MATRIX = "matrix"


@dataclass(frozen=True)
class Solved:
    """One block of right-hand sides with L λ's: `x` (L, k, p), what was found out about each of them, and about H."""

    x: Tensor
    of_rows: Tensors  # (L, k, …) each
    of_fit: Tensors
    summaries: list[dict[str, Any]]  # one a λ


@dataclass(frozen=True)
class Scores:
    """Influences of one block of training rows on one of test rows; each part only if it is kept."""

    matrix: Tensor | None = None  # (L, m, n, …)
    parts: Tensor | None = None  # (L, m, n, parts…) that add up to it
    top: Tensors = field(default_factory=dict)  # (L m, k) each
    mean_sums: Tensor | None = None  # (L, n) float64, over the test rows
    sample: Tensor | None = None  # (L, m', n', e), where λ's are compared
    cells: Tensor | None = (
        None  # (L, rows, columns, …) float64: sums over groups, in the place of all but the sample
    )


@dataclass(frozen=True)
class SelfInfluences:
    """(L, n) of one block of training rows, and what solving for them found out."""

    values: Tensor
    of_fit: Tensors
    summaries: list[dict[str, Any]]  # one a λ


@dataclass(frozen=True)
class IndexBlock:
    """The numbers of one block of training rows: float16 (n, width), times a factor (n,) for each row."""

    numbers: Tensor
    factors: Tensor


@dataclass
class Cost:
    """What the engine did."""

    passes: float = 0.0
    gradient_rows: int = 0  # training rows whose gradients were made, however many factors met them
    seconds: float = 0.0
    peak_memory_bytes: int = 0


@dataclass(frozen=True)
class Window:
    """Rows start to stop of `rows` as rows of their own, numbered from 0: an engine's `Rows`."""

    rows: Rows
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """The batches of rows [start, stop)."""
        end = len(self) if stop is None else min(stop, len(self))
        for batch in self.rows.batches(size, self.start + start, self.start + end):
            yield replace(batch, start=batch.start - self.start)

    def take(self, indices: Tensor) -> Batch:
        """The rows with these numbers."""
        return self.rows.take(indices + self.start)


@contextmanager
def numbered_from(start: int) -> Iterator[None]:
    """An error that names a row of a window names the row of the whole instead."""
    try:
        yield
    except NotFinite as error:
        if error.row is None or start == 0:
            raise
        raise NotFinite(error.what, row=error.row + start) from error


class Steps:
    """The steps of one job, in any order. Each may raise EngineError, and whatever `progress` raises."""

    def __init__(
        self, request: AttributionJob, inputs: JobInputs, plan: Plan, fits: Fits, progress: Progress
    ) -> None:
        self.request, self.inputs, self.plan = request, inputs, plan
        self._fits = fits
        self._progress = progress
        self._curvatures: list[
            tuple[Curvature, float]
        ] = []  # with the part of the rows that each is over
        self._gradient_rows = 0

    @contextmanager
    def measured(self) -> Iterator[Cost]:
        """What is done in this block of code; filled in at its end."""
        cost, began, device = Cost(), time.perf_counter(), self.inputs.problem.device
        self._curvatures.clear()
        self._gradient_rows = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        yield cost
        cost.passes = float(sum(each.passes * part for each, part in self._curvatures))
        cost.gradient_rows = self._gradient_rows
        cost.seconds = time.perf_counter() - began
        cost.peak_memory_bytes = peak_memory(device)

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
        return self._described(self._solver(rows)(rhs), rhs)

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

    def scores(self, factors: Tensor, number: int) -> Scores:
        """Factors (L, m, p) of one block of test rows times the gradients of one block of training rows."""
        assert isinstance(self.request, InfluencesJob)
        if self.table is not None:
            return self._sums_of_groups(self.table, factors, number)
        keep = self.request.keep
        rows = self.plan.train.block(self.plan.contraction(number)[1])
        ranking = Ranking(keep.top) if keep.top else None
        count, several = rows.stop - rows.start, len(factors)
        sums = torch.empty((several, count), dtype=torch.float64) if keep.mean else None
        sample = Sample.of(self.plan) if several > 1 else None
        first_test = self.plan.test.block(self.plan.contraction(number)[0]).start
        sampled: list[Tensor] = []
        matrix: Tensor | None = None
        parts: Tensor | None = None
        with numbered_from(rows.start):
            # All λ's meet the training rows together: one pass.
            for here, found, split in self._influences_and_parts(factors.flatten(0, 1), rows):
                block = found.view(several, -1, *found.shape[1:])
                if split is not None:
                    several_parts = split.view(several, -1, *split.shape[1:])
                    if parts is None:
                        shape = (*several_parts.shape[:2], count, *several_parts.shape[3:])
                        parts = torch.empty(shape, dtype=split.dtype)
                    parts[:, :, here] = several_parts.cpu()
                if keep.matrix:
                    if matrix is None:
                        shape = (*block.shape[:2], count, *block.shape[3:])
                        matrix = torch.empty(shape, dtype=block.dtype)
                    matrix[:, :, here] = block.cpu()
                if ranking is not None:
                    ranking.add(rows.start + here.start, found)
                if sums is not None:
                    sums[:, here] = torch.stack([sum_of_rows(each) for each in block])
                if sample is not None:
                    sampled.append(sample.taken(first_test, rows.start + here.start, block))
                self._gradient_rows += found.shape[1]
        top = {name: value.cpu() for name, value in ranking.tensors().items()} if ranking else {}
        return Scores(matrix, parts, top, sums, torch.cat(sampled, 2) if sampled else None)

    def _influences_and_parts(
        self, factors: Tensor, rows: slice
    ) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """(slice of columns, (m, b, …), (m, b, parts…)): where parts are asked for, the influence is their sum."""
        request, problem = self.request, self.inputs.problem
        assert isinstance(request, InfluencesJob)
        if request.scores_by == "row":
            for here, found in self._influences(factors, rows):
                yield here, found, None
            return
        train = Window(self.inputs.train, rows.start, rows.stop)
        split = engine.up_by_layer if request.scores_by == "layer" else engine.up_by_token
        for here, parts in split(problem, factors, train, **self._options()):
            yield here, parts.flatten(2).double().sum(2).to(parts.dtype), parts

    @cached_property
    def table(self) -> Table | None:
        """Where rows are grouped, what they come to."""
        members = self.inputs.members
        return Table(self.plan, members) if members else None

    def _sums_of_groups(self, table: Table, factors: Tensor, number: int) -> Scores:
        rows = self.plan.train.block(self.plan.contraction(number)[1])
        several = len(factors)
        sample = Sample.of(self.plan) if several > 1 else None
        first_test = self.plan.test.block(self.plan.contraction(number)[0]).start
        sampled: list[Tensor] = []
        cells = table.empty(number, several)
        with numbered_from(rows.start):
            for here, found in self._influences(factors.flatten(0, 1), rows):
                block = found.view(several, -1, *found.shape[1:])
                table.add(cells, number, here, block)
                if sample is not None:
                    sampled.append(sample.taken(first_test, rows.start + here.start, block))
                self._gradient_rows += found.shape[1]
        sampled_all = torch.cat(sampled, 2) if sampled else None
        return Scores(sample=sampled_all, cells=torch.from_numpy(cells))

    def rescaling(self, table: Table) -> Rescaling:
        """How groups of training rows are met at the curvature without them."""
        problem, options = self.inputs.problem, self._options()

        def solve(rhs: Tensor) -> Tensor:
            step, solver = self.plan.rhs.step or len(rhs), self._solver(slice(0, 0))
            parts = [
                torch.stack([each.x for each in solver(rhs[start : start + step])])
                for start in range(0, len(rhs), step)
            ]
            return torch.cat(parts, 1)

        def gradient_sum(rows: Rows) -> Tensor:
            total = torch.zeros(problem.size, dtype=torch.float64, device=problem.device)
            for _, block in engine.row_gradients(problem, rows, **options):
                total += block.double().sum(0)
            return total.to(problem.dtype)

        roots = Roots(problem, **options)
        return Rescaling(self.inputs, self.plan, table, solve, gradient_sum, roots, self._progress)

    def _influences(self, factors: Tensor, rows: slice) -> Iterator[tuple[slice, Tensor]]:
        request, problem = self.request, self.inputs.problem
        assert isinstance(request, InfluencesJob)
        train = Window(self.inputs.train, rows.start, rows.stop)
        if request.influence_type == "up":
            precision = low_precision(request.precision)
            return engine.up(problem, factors, train, precision=precision, **self._options())
        options = self._options()
        if request.perturb_at is not None:
            return engine.perturb_at(problem, factors, train, module=request.perturb_at, **options)
        return engine.perturbation(
            problem, factors, train, input=self.inputs.perturb_input, **options
        )

    def self_influences(self, number: int) -> SelfInfluences:
        """Of one block of training rows."""
        problem, rows = self.inputs.problem, self.plan.train.block(number)
        train = Window(self.inputs.train, rows.start, rows.stop)
        solve, found = self._solver(rows), list[Solved]()

        def remembered(rhs: Tensor) -> Sequence[Solution]:
            solutions = solve(rhs)
            # Without the solutions: there is one for each training row.
            found.append(replace(self._described(solutions, rhs), x=rhs[:0]))
            return solutions

        count = self.request.damping_count
        values = torch.empty((count, len(train)), dtype=problem.dtype, device=problem.device)
        influences = engine.self_influences_of_each(
            problem, remembered, count, train, **self._options()
        )
        with numbered_from(rows.start):
            for here, block in influences:
                values[:, here] = block
                self._gradient_rows += block.shape[1]
        summaries = [
            merged_summary(list(each))
            for each in zip(*(block.summaries for block in found), strict=True)
        ]
        return SelfInfluences(values, found[-1].of_fit, summaries)

    @cached_property
    def embedding(self) -> Embedding:
        """What makes few numbers of a gradient, by the eigenvectors of C and with the job's λ."""
        assert isinstance(self.request, IndexJob)
        (asked,) = asked_of_fit(self.request)
        form = damped(self.closed_form(), asked)
        assert isinstance(form, Spectral)
        return Embedding.of(form, self.request.dimension)

    def indexed(self, number: int) -> IndexBlock:
        """Of one block of training rows."""
        rows, width = self.plan.train.block(number), self.embedding.width
        count = rows.stop - rows.start
        numbers = torch.empty((count, width), dtype=torch.float16)
        factors = torch.empty(count)
        earlier = self.inputs.extended
        taken = 0 if earlier is None else min(max(len(earlier) - rows.start, 0), count)
        if earlier is not None and taken:
            there = range(rows.start, rows.start + taken)
            numbers[:taken], factors[:taken] = earlier.numbers(there), earlier.factors(there)
        new = Window(self.inputs.train, rows.start + taken, rows.stop)
        with numbered_from(new.start):
            for here, block in self._embedded(new):
                self._gradient_rows += len(block)
                at = slice(here.start + taken, here.stop + taken)
                half, factor = engine.halved(block)
                numbers[at], factors[at] = half.cpu(), factor.cpu()
        return IndexBlock(numbers, factors)

    def _embedded(self, rows: Window) -> Iterator[tuple[slice, Tensor]]:
        if not len(rows):
            return iter(())
        return engine.embedded(self.inputs.problem, self.embedding, rows, **self._options())

    def solved_sample(self, places: Tensor) -> Solved:
        """Solutions for the gradients of some training rows."""
        problem = self.inputs.problem
        batch = self.inputs.train.take(places.to(problem.device))
        rhs = engine.per_example_gradients(problem, batch)
        return self._described(self._solver(slice(0, 0))(rhs), rhs)

    def exact_sample(self, factors: Tensor, places: Tensor) -> Tensor:
        """(m, k): influences on what factors (m, p) are of, by the whole gradients of some training rows."""
        rows = ChosenRows(self.inputs.train, places.to(self.inputs.problem.device))
        found = engine.up(self.inputs.problem, factors, rows, **self._options())
        return torch.cat([block for _, block in found], 1)

    def predict(self, number: int, writer: ResultWriter) -> str:
        """Stores losses and predictions of one block of rows; answers the object's digest."""
        side, rows = self.plan.prediction(number)
        problem = self.inputs.problem.plain
        weighted = side == "train" and problem is not self.inputs.problem
        whole = self.inputs.test if side == "test" else self.inputs.train
        assert whole is not None
        whole = Unweighted(whole) if weighted else whole
        with numbered_from(rows.start):
            found = store_predictions(
                writer.objects,
                writer.paths,
                side,
                problem,
                Window(whole, rows.start, rows.stop),
                first=rows.start,
                **self._options(),
            )
        writer.digests |= found
        (digest,) = found.values()
        return digest

    def precision_summary(self) -> dict[str, Any]:
        """What was computed in, and where that is not what the model is stored in."""
        summary: dict[str, Any] = {"precision": self.request.precision}
        if self.inputs.precision_note is not None:
            summary["precision_note"] = self.inputs.precision_note
        return summary

    def derivatives_summary(self) -> dict[str, Any]:
        """By what products with the curvature were taken where passes over the rows take them."""
        closed = self.request.curvature.closed_form or self.inputs.factors is not None
        if closed or self.request.curvature.facts.one_column_a_row:
            return {}
        probe = next(iter(self.inputs.hessian_rows.batches(PROBE_ROWS)))
        return dict(engine.derivatives_used(self.inputs.problem, probe))

    def frozen_summary(self) -> dict[str, Any]:
        """For how many rows the frozen layers were run, once each; nothing where they run in each pass."""
        count = self.inputs.frozen_rows
        return {"frozen_rows": count} if count else {}

    def memory_summary(self) -> dict[str, Any]:
        """That right-hand sides are solved for in more blocks than they need be, for want of memory."""
        cut, together = self.plan.rhs, self.request.inversion.together
        wished = min(cut.total, together, self.request.blocks.rhs_rows or cut.total)
        if not self.plan.solves or cut.step >= wished:
            return {}
        vector = self.inputs.problem.size * self.inputs.problem.dtype.itemsize
        needed = -(-rhs_bytes(vector, self.request.damping_count) * wished // MIB)
        return {
            "memory_note": f"right-hand sides were solved for {cut.step} at a time, each block with passes of its own "
            f"over the rows; with UPWEIGHT_MEMORY_BYTES of at least {needed} MiB, which the operator raises, it is "
            f"{wished} at a time"
        }

    def curvature_summary(self) -> dict[str, Any]:
        """What was inverted, and what its labels were drawn with."""
        curvature = self.request.curvature
        summary: dict[str, Any] = curvature.model_dump(mode="json")
        summary = {
            "curvature": summary.pop("kind"),
            **{f"curvature_{k}": v for k, v in summary.items()},
        }
        return summary | ({"label_seed": self.request.seed} if curvature.facts.draws_labels else {})

    def low_precision_summary(self, factors: Callable[[], Tensor]) -> dict[str, Any]:
        """What a sample of factors (L, k, p) and training rows says of low precision; nothing in full precision."""
        precision = low_precision(self.request.precision)
        if precision == "full":
            return {}
        found = engine.low_precision_agreement(
            self.inputs.problem, factors().flatten(0, 1), self.inputs.train, precision
        )
        summary = {"low_precision_correlation": found.correlation}
        return summary | ({"warning": found.warning} if found.warning else {})


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


def peak_memory(device: torch.device) -> int:
    """The most bytes so far: of the device, or of the process where it computes on the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def low_precision(precision: str | None) -> Precision:
    """The engine's precision of gradient products; everything else is in the problem's dtype."""
    return precision if precision in ("tf32", "bf16") else "full"  # type: ignore[return-value]
