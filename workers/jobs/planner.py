"""How a job is cut into blocks: from the sizes of model, rows and memory, and for a large one from measured speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import torch

from service.jobs.counts import rhs_bytes
from service.settings import Settings
from service.storage.cuts import Cut
from upweight.schema import AttributionJob, IndexJob, InfluencesJob
from workers.engine import LayerGroups, position_shape
from workers.engine.autodiff.mixed import InputVariable, ModuleVariable
from workers.engine.curvature.structured.layout import Layout
from workers.engine.curvature.structured.operator import summed_together
from workers.jobs.estimate import Estimate, estimated
from workers.jobs.inputs import JobInputs
from workers.jobs.plan import Plan
from workers.jobs.table import Membership

CHUNK_BYTES = 32 * 1024**2  # of the matrix: what a contraction holds of its result
FEWEST_COLUMNS = 32  # of a chunk, before it gets fewer test rows
FEWEST_ROWS = 64  # of a block that is a task of its own
MOST_ROWS = 1 << 20  # training rows of a block: it holds some numbers a row
MOST_BLOCKS = 100_000
MOST_SUMS = 16  # partial sums of a Hessian: each is (p, p)


@dataclass(frozen=True)
class Planner:
    """Of one job; asked for nothing but what its arguments say, it answers the same each time."""

    request: AttributionJob
    inputs: JobInputs
    rhs_count: int
    settings: Settings

    def plan(self) -> Plan:
        """The plan of a job that has none yet."""
        wish = self.request.blocks
        spread = wish.spread
        if spread is None:
            spread = self._seconds > self.settings.spread_seconds
        plan = self._in_one_task()
        return self._wished(self._spread(plan) if spread else plan)

    @cached_property
    def estimate(self) -> Estimate:
        """Of the whole; nothing for a small job, which is not worth a timing."""
        together = min(self._rhs_most, self.request.inversion.together)
        # Of positions each factor goes back through the model, as where inputs are perturbed.
        entries = prod(self._trailing) * (
            2 if getattr(self.request, "scores_by", "row") == "token" else 1
        )
        found = estimated(
            self.request, self.inputs, self.rhs_count, together, entries, self._budget
        )
        return found.with_dampings(self._dampings)

    @property
    def _seconds(self) -> float:
        rows = len(self.inputs.train) if self.request.scores_rows else 0
        return self.estimate.total(self._solved_for, rows)

    @property
    def _solved_for(self) -> int:
        if self.request.is_self:
            return len(self.inputs.train)
        return self.rhs_count if self.inputs.factors is None else 0

    def _in_one_task(self) -> Plan:
        """Cut by memory alone."""
        request, inputs = self.request, self.inputs
        test_rows, train_rows = self.rhs_count, len(inputs.train)
        test = Cut.evenly(test_rows, self._test_most)
        train = Cut.evenly(train_rows, MOST_ROWS)
        if self._stores_each:
            most = CHUNK_BYTES // (FEWEST_COLUMNS * self._entry_bytes) or 1
            test = Cut.evenly(test_rows, min(test.step, most))
            train = Cut.evenly(train_rows, self._columns(test))
        elif isinstance(request, IndexJob):
            train = Cut.evenly(train_rows, self._index_rows(request))
        elif self._members:
            test = Cut.evenly(test_rows, min(test.step, self._most_of("test")))
            train = Cut.evenly(train_rows, self._most_of("train"))
        return Plan(
            spread=False,
            budget_bytes=self._budget,
            rhs=Cut.evenly(self.rhs_count, self._rhs_most),
            test=test,
            train=train,
            trailing=self._trailing,
            parts=self._parts,
            fits=inputs.factors is None
            and (request.inversion.has_fit or request.curvature.closed_form),
            solves=inputs.factors is None and not (request.is_self or request.is_index),
            contracts=request.scores_rows,
            predicts=tuple(
                side
                for side in request.predicts
                if (side != "test" or inputs.test is not None) and side not in self._members
            ),
            threads=torch.get_num_threads(),
        )

    def _spread(self, plan: Plan) -> Plan:
        """Cut by time, too."""
        estimate, seconds = self.estimate, self.settings.block_seconds
        row = estimate.train_row * plan.test.step / max(1, plan.test.total)
        if self.request.is_self:
            row += estimate.right_hand_side
        fitting = _power_of_two(seconds / row) if row else plan.train.total
        fewest = max(FEWEST_ROWS, plan.train.total * plan.test.count // MOST_BLOCKS)
        train = min(plan.train.step, max(fewest, fitting))
        return replace(
            plan,
            spread=True,
            rhs=Cut.evenly(plan.rhs.total, min(self.request.inversion.together, self._rhs_most)),
            train=Cut.evenly(plan.train.total, train),
            hessian=self._sums(estimate.fit) if plan.fits else None,
        )

    def _sums(self, fit_seconds: float) -> Cut | None:
        """The Hessian's rows in partial sums, where that is worth their storing."""
        rows, size = len(self.inputs.hessian_rows), self.inputs.problem.size
        if self.inputs.extended is not None:
            return None  # its eigenvectors are there
        count = min(MOST_SUMS, rows // FEWEST_ROWS, int(fit_seconds / self.settings.block_seconds))
        if self.request.curvature.closed_form:
            if count < 2 or not self._sums_at_once():
                return None
            return Cut.evenly(rows, -(-rows // count))
        fits = size * size * self.inputs.problem.dtype.itemsize <= self._budget
        if self.request.building is not self.request.inversion or count < 2 or not fits:
            return None
        return Cut.evenly(rows, -(-rows // count))

    def _sums_at_once(self) -> bool:
        """Whether the sums of all layers fit beside the fit of a closed form; else they are taken part by part."""
        structure, problem = self.request.curvature.structure, self.inputs.problem
        if structure == "full" or structure == "identity":
            return True
        blocks = Layout.found(problem, self.inputs.hessian_rows, structure).blocks
        return len(summed_together(blocks, problem.dtype.itemsize, self._budget)) < 2

    def _wished(self, plan: Plan) -> Plan:
        """As far as the job says how it is to be cut, and memory allows."""
        wish = self.request.blocks
        test = _at_most(plan.test, wish.test_rows, min(self._test_most, self._most_of("test")))
        most = self._columns(test) if self._stores_each else self._most_of("train")
        if isinstance(self.request, IndexJob):
            most = self._index_rows(self.request)
        train = _at_most(plan.train, wish.train_rows, most)
        rhs = _at_most(plan.rhs, wish.rhs_rows, self._rhs_most)
        hessian = plan.hessian
        curvature = self.request.curvature
        summed = curvature.closed_form or self.request.inversion.builds_matrix
        if wish.hessian_rows and summed and plan.fits and self.inputs.extended is None:
            rows = len(self.inputs.hessian_rows)
            hessian = Cut(rows, min(rows, wish.hessian_rows))
        rotates = hessian is not None and curvature.takes_second_pass
        return replace(plan, test=test, train=train, rhs=rhs, hessian=hessian, rotates=rotates)

    def _index_rows(self, request: IndexJob) -> int:
        """Training rows of a block of an index, each with no more numbers than parameters or than its layers keep."""
        problem = self.inputs.problem
        width = min(problem.size, request.dimension * len(LayerGroups(problem.layout).names))
        return max(1, min(MOST_ROWS, CHUNK_BYTES // (2 * width)))

    @property
    def _budget(self) -> int:
        return self.settings.memory_bytes

    @property
    def _vector_bytes(self) -> int:
        return self.inputs.problem.size * self.inputs.problem.dtype.itemsize

    @property
    def _test_most(self) -> int:
        """Test rows whose factors of all λ's fit."""
        return self._budget // (self._dampings * self._vector_bytes) or 1

    @property
    def _rhs_most(self) -> int:
        held = self.request.inversion.vectors_of_each(
            single=self.inputs.problem.dtype == torch.float32
        )
        return max(1, self._budget // rhs_bytes(self._vector_bytes, self._dampings, held))

    @property
    def _entry_bytes(self) -> int:
        """Of the scores of one pair of rows, with all λ's."""
        numbers = prod(self._trailing) + (prod(self._parts) if self._parts else 0)
        return self._dampings * numbers * self.inputs.problem.dtype.itemsize

    @property
    def _stores_each(self) -> bool:
        """Whether a contraction holds all that it stores of each pair of rows."""
        return self.request.keeps_matrix or bool(self._parts)

    @property
    def _dampings(self) -> int:
        return self.request.damping_count

    @property
    def _members(self) -> Mapping[str, Membership]:
        return self.inputs.members

    def _most_of(self, side: str) -> int:
        """Rows of a block of a side, as far as the sums over groups of the other one say."""
        other = self._members.get("train" if side == "test" else "test")
        if side in self._members or other is None:
            return MOST_ROWS
        doubles = 8 * self._dampings * prod(self._trailing) * other.count
        return max(1, min(MOST_ROWS, CHUNK_BYTES // doubles))

    def _columns(self, test: Cut) -> int:
        return CHUNK_BYTES // (test.step * self._entry_bytes) or 1

    @cached_property
    def _parts(self) -> tuple[int, ...]:
        """The shape of the parts of one influence: none where it is stored as one number."""
        request, problem = self.request, self.inputs.problem
        if not isinstance(request, InfluencesJob) or request.scores_by == "row":
            return ()
        if request.scores_by == "layer":
            return (len(LayerGroups(problem.layout).names),)
        return tuple(position_shape(problem, self.inputs.train))

    @cached_property
    def _trailing(self) -> tuple[int, ...]:
        """The shape of one influence."""
        if not isinstance(self.request, InfluencesJob) or self.request.influence_type == "up":
            return ()
        module, problem = self.request.perturb_at, self.inputs.problem
        variable = (
            InputVariable(self.inputs.perturb_input) if module is None else ModuleVariable(module)
        )
        first = problem.placed(next(iter(self.inputs.train.batches(1))))
        with torch.no_grad():
            return tuple(variable.initial(problem, first).shape[1:])


def _at_most(cut: Cut, wish: int | None, most: int) -> Cut:
    """With blocks as wished for, if that is not too much."""
    step = min(wish or cut.step, most, max(1, cut.total))
    return cut if step == cut.step else Cut(cut.total, step)


def _power_of_two(value: float) -> int:
    """The largest below, so that speeds measured a little differently give the same blocks."""
    return 1 << max(0, int(value).bit_length() - 1)
