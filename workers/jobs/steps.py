"""What the engine does for each block of a job. A block's numbers depend on the plan alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from upweight.schema import IndexJob, InfluencesJob
from workers import engine
from workers.engine import (
    Embedding,
    Precision,
    RandomEmbedding,
    Rows,
    Solution,
    SpectralEmbedding,
    Strengths,
)
from workers.engine.curvature.structured.blocks import Spectral
from workers.engine.curvature.structured.layout import Layout
from workers.engine.model.rows import ChosenRows
from workers.engine.projection.layers import Projection
from workers.engine.scores.leverage import Roots
from workers.jobs.asked_damping import asked_of_fit, damped
from workers.jobs.blocks import IndexBlock, Scores, SelfInfluences, Solved, Window, numbered_from
from workers.jobs.merge import Ranking, merged_summary, sum_of_rows
from workers.jobs.neighbours import Sample
from workers.jobs.predictions import store_predictions
from workers.jobs.rescaling import Rescaling
from workers.jobs.results import ResultWriter
from workers.jobs.solving import Solving
from workers.jobs.table import Table

STORED_AS = {"float16": torch.float16, "int8": torch.int8}  # the numbers of an index


class Steps(Solving):
    """The steps of one job, in any order. Each may raise EngineError, and whatever `progress` raises."""

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
        # As a row of `up` with itself: its weight counts where it trains, and not where it is measured.
        weighted = problem.plain is not problem
        influences = engine.self_influences_of_each(
            problem.plain,
            remembered,
            count,
            problem.unweighted(train),
            **self._options(),
        )
        with numbered_from(rows.start):
            for here, block in influences:
                if weighted:
                    places = torch.arange(here.start, here.stop, device=block.device)
                    block = block * engine.weights_of(train, places).to(block)
                values[:, here] = block
                self._gradient_rows += block.shape[1]
        summaries = [
            merged_summary(list(each))
            for each in zip(*(block.summaries for block in found), strict=True)
        ]
        return SelfInfluences(values, found[-1].of_fit, summaries)

    @cached_property
    def embedding(self) -> Embedding:
        """What makes few numbers of a gradient, with the job's λ."""
        assert isinstance(self.request, IndexJob)
        (asked,) = asked_of_fit(self.request)
        form = damped(self.closed_form(), asked)
        assert isinstance(form, Spectral)
        if self.request.projection.is_random:
            return self.inputs.random_embedding(lambda: self._random_embedding(form))
        return SpectralEmbedding.of(form, self.inputs.strengths(lambda: self._strengths(form)))

    def _random_embedding(self, form: Spectral) -> RandomEmbedding:
        """Drawn and whitened now, unless an earlier index has."""
        request, problem = self.request, self.inputs.problem
        assert isinstance(request, IndexJob)
        earlier = self.inputs.extended
        if earlier is not None:
            return earlier.random_embedding(problem.device)
        asked = getattr(request.projection, "seed", None)
        layout = Layout.of_matrices(problem, self.inputs.hessian_rows)
        projection = Projection.drawn(
            layout, request.dimension, request.seed if asked is None else asked, problem.theta
        )
        found = RandomEmbedding.of(projection, form, budget_bytes=self.plan.budget_bytes)
        train = self.inputs.train
        places = spaced(len(train), engine.SAMPLED).to(problem.device)
        self._gradient_rows += len(places)
        passed = found.of_rows(problem, ChosenRows(train, places), **self._options())
        return found.measured(block for _, block in passed)

    def _strengths(self, form: Spectral) -> Strengths:
        """Which numbers are kept: by the gradients of some rows, unless an earlier index has said so."""
        assert isinstance(self.request, IndexJob)
        earlier = self.inputs.extended
        if earlier is not None:
            return earlier.strengths(form, self.request.dimension)
        train = self.inputs.train
        places = spaced(len(train), engine.SAMPLED).to(self.inputs.problem.device)

        def rows(whole: Embedding) -> Iterator[Tensor]:
            chosen = ChosenRows(train, places)
            for _, block in whole.of_rows(self.inputs.problem, chosen, **self._options()):
                self._gradient_rows += len(block)
                yield block

        return Strengths.of(form, self.request.dimension, rows)

    def indexed(self, number: int) -> IndexBlock:
        """Of one block of training rows."""
        rows, width = self.plan.train.block(number), self.embedding.width
        count = rows.stop - rows.start
        assert isinstance(self.request, IndexJob)
        dtype = STORED_AS[self.request.stored_as]
        numbers = torch.empty((count, width), dtype=dtype)
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
                few, factor = engine.compressed(block, dtype)
                numbers[at], factors[at] = few.cpu(), factor.cpu()
        return IndexBlock(numbers, factors)

    def _embedded(self, rows: Window) -> Iterator[tuple[slice, Tensor]]:
        if not len(rows):
            return iter(())
        return self.embedding.of_rows(self.inputs.problem, rows, **self._options())

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
        test, train = self.inputs.test, self.inputs.problem.unweighted(self.inputs.train)
        whole = test if side == "test" else train
        assert whole is not None
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


def low_precision(precision: str | None) -> Precision:
    """The engine's precision of gradient products; everything else is in the problem's dtype."""
    return precision if precision in ("tf32", "bf16") else "full"  # type: ignore[return-value]


def spaced(total: int, most: int) -> Tensor:
    """So many row numbers at most, evenly spaced."""
    return torch.linspace(0, total - 1, min(total, most), dtype=torch.float64).round().long()
