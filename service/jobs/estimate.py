"""What a job will take: counts from its request and records, at the rate that an earlier job of the model had."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from service.jobs.counts import (
    FEWEST_ROWS,
    FORMED_OUTPUTS,
    NOTHING,
    PASS_SECONDS,
    Counts,
    RowBytes,
    Size,
    Work,
    built_work,
    counted,
    form_work,
    positions_of,
    product_work,
    rhs_bytes,
)
from service.jobs.groups import rescaling_bytes
from service.jobs.validation.inputs import Inputs
from service.jobs.validation.size import item_bytes, perturbed_shape, result_bytes
from service.jobs.validation.structures import likely_bytes, module_sizes
from service.parts import Parts
from service.storage.experience import Experience, spectrum_of
from upweight.schema import (
    AttributionJob,
    DatasetRecord,
    HvpJob,
    InfluencesJob,
    JobBase,
    Recipe,
)
from upweight.schema.curvature import LARGE_BLOCK
from upweight.schema.damping import numbers
from upweight.schema.estimate import Estimate
from upweight.schema.inversion import METHODS, VECTORS_COMPARED
from upweight.schema.method import InversionMethod

DAY = 86_400.0
# Of a worker that nothing is known of, with some cores: an order of magnitude.
ASSUMED_FLOPS_PER_SECOND = 2e10
ASSUMED = "assumed: no earlier job of this model tells one"
FIXED_SECONDS = (
    0.5  # to load, check and store, however little there is to do, until a job has told it
)
STEP_SECONDS = 2e-4  # of a step of training, however few rows are in it
# Of a process with torch, before it has loaded a model, and of what it loads of torch until a job is done:
# `python -m benchmarks.estimates --models mlp` shows it.
WORKER_BYTES = 350 * 1024**2
MUCH_CHEAPER = 0.5
# Times the eigenvalue that a λ must lift above 0: what is named as enough, here and where a job fails.
BEYOND = 1.2
PREDICTED_ROW = 2  # numbers of a row beside two whole ones: its loss, its error
MODEL_COPIES = 2  # as it was read, and the weights end to end
SCORED_VECTORS = (
    3  # (k, p) blocks of scores by an inverse in closed form: gradients, factors, a product of them
)
FILE_BYTES = 400  # of a header, or of a small file of JSON


@dataclass(frozen=True)
class Counted:
    """Of one job, with so many right-hand sides or vectors."""

    job: JobBase
    inputs: Inputs
    vectors: int

    @property
    def parameters(self) -> int:
        """p."""
        return self.inputs.model.parameter_count or 0

    def size(self) -> Size:
        """By the records alone."""
        job, model = self.job, self.inputs.model
        entries = 1
        if isinstance(job, InfluencesJob):
            entries = prod(perturbed_shape(job, self.inputs))
            if job.scores_by == "token":  # each factor goes back through the model, as for inputs
                entries *= 2
        rows = len(self.inputs.hessian.rows), len(self.inputs.train.rows)
        positions = positions_of(model.outputs)
        kept = tuple(each for each in module_sizes(model.selected).values() if each <= LARGE_BLOCK)
        return Size(self.parameters, kept, *rows, self._columns(), entries, positions)

    def attribution(self, inversion: InversionMethod | None = None) -> Work:
        """All of a job with an inversion, with its method or another."""
        job = self.job
        assert isinstance(job, AttributionJob)
        size, method = self.size(), inversion or job.inversion
        solved = size.train_rows if job.is_self else self.vectors
        together = min(max(1, solved), method.together)
        counts: Counts = counted(job, size, solved, together, method)
        scored = size.train_rows if job.scores_rows and not job.is_self else 0
        if getattr(job, "factors", None) is not None:
            scoring = counts.train_row + counts.contraction.times(job.damping_count - 1)
            return scoring.times(scored)
        found = counts.total(solved, scored, job.damping_count)
        if isinstance(job, InfluencesJob) and job.rescales:
            found += self._rescaling(job, size, counts)
        return found

    def _rescaling(self, job: InfluencesJob, size: Size, counts: Counts) -> Work:
        """Of sets that are removed together: each of their rows' directions is solved for, with each λ."""
        groups = self.inputs.groups
        members = sum(each.rows for each in (groups.train if groups and groups.train else ()))
        columns = size.columns
        directions = members * columns + len(groups.train if groups and groups.train else ())
        solving = counts.right_hand_side.times(directions * job.damping_count)
        meeting = Work(flops=2.0 * size.parameters * directions * max(1, self.vectors))
        return solving + meeting + Work(gradients=float(members * (1 + columns)))

    def gradients(self) -> Work:
        """Of one for each row."""
        return Work(gradients=float(len(self.inputs.train.rows)), passes=1.0)

    def products(self) -> Work:
        """Of a curvature with each vector."""
        job, size = self.job, self.size()
        assert isinstance(job, HvpJob)
        curvature, p = job.curvature, self.parameters
        drawing = float(size.hessian_rows) if curvature.facts.draws_labels else 0.0
        fit, product = NOTHING, product_work(curvature, size.hessian_rows, max(1, self.vectors))
        if curvature.closed_form:
            fit, product = form_work(curvature, size), Work(flops=2.0 * p)
        elif curvature.builds_matrix:
            fit, product = built_work(curvature, size), Work(flops=2.0 * p * p)
        return fit + Work(gradients=drawing) + product.times(self.vectors)

    def _columns(self) -> int:
        job, outputs = self.job, self.inputs.model.outputs
        curvature = getattr(job, "curvature", None)
        if curvature is None or not outputs:
            return 1
        if curvature.differentiates_twice or curvature.facts.one_column_a_row:
            return 1
        width = prod(each or 1 for each in outputs[0].shape[1:])
        return width if width <= FORMED_OUTPUTS else 1

    def bytes(self) -> int:
        """Of the result: arrays, what the model makes of the rows, and what is told of the inversion."""
        job = self.job
        assert isinstance(job, AttributionJob)
        item = item_bytes(job)
        size = result_bytes(job, self.inputs, self.vectors)
        test = len(self.inputs.test.rows) if self.inputs.test is not None else 0
        predicted = sum(
            {"test": test, "train": len(self.inputs.train.rows)}[side] for side in job.predicts
        )
        size += predicted * (PREDICTED_ROW * item + 16)
        if job.inversion.builds_matrix and not job.curvature.closed_form:
            size += self.parameters * (self.parameters + 1) * item  # the matrix, and its spectrum
        return size + job.damping_count * self.vectors * 4 * 8 + 4 * FILE_BYTES

    def memory(self, budget: int, cache: int) -> int:
        """Of a worker: the model, the rows, what is made of C, and vectors in blocks that the budget cuts.

        A block has one right-hand side or test row at least, whatever the budget.
        """
        job, item, p = self.job, item_bytes(self.job), self.parameters
        kept = MODEL_COPIES * self.inputs.model.size_bytes
        datasets = {each.dataset.id: each.dataset for each in self.inputs.chosen}.values()
        kept += min(cache, sum(map(_bytes_of, datasets)))
        if isinstance(job, InfluencesJob) and job.rescales and self.inputs.groups is not None:
            largest = max(each.rows for each in self.inputs.groups.train or ())
            kept += min(budget, rescaling_bytes(job, self.inputs, largest))
        dampings = getattr(job, "damping_count", 1)
        each = rhs_bytes(p * item, dampings)
        curvature = getattr(job, "curvature", None)
        if curvature is not None and curvature.closed_form:
            selected = self.inputs.model.selected or ()
            # Sums that do not fit are taken a few layers at a time; they are gone when rows are scored.
            after, fitting = likely_bytes(selected, curvature.structure, item)
            each = SCORED_VECTORS * dampings * p * item
            together = max(1, min(self.vectors, budget // max(1, each)))
            kept += self._activations(budget)
            return (
                WORKER_BYTES
                + kept
                + max(min(budget, fitting), min(budget, after) + together * each)
            )
        if getattr(job, "building", None) is not None or (curvature and curvature.builds_matrix):
            kept += 3 * p * p * item
        elif isinstance(job, AttributionJob) and getattr(job, "factors", None) is None:
            return WORKER_BYTES + kept + self._solving_bytes(job, budget)
        through = job.inversion.together if isinstance(job, AttributionJob) else 1
        kept += self._activations(budget, max(1, min(self.vectors, through)))
        together = max(1, min(self.vectors, budget // max(1, each)))
        return WORKER_BYTES + kept + together * each

    def _activations(self, budget: int, together: int = 1) -> int:
        """Of a batch of rows, for each of the vectors that go through the model with it; within the budget.

        Gradients alone go through it where the inverse is in closed form, however many test rows there are.
        """
        of_row = self.inputs.model.activation_bytes
        if of_row is None:
            return 0
        rows = min(FEWEST_ROWS, max(len(self.inputs.hessian.rows), len(self.inputs.train.rows)))
        return min(budget, rows * of_row * (1 + together))

    def _solving_bytes(self, job: AttributionJob, budget: int) -> int:
        """Of vectors, as many right-hand sides at a time as the planner takes."""
        vector, method = self.parameters * item_bytes(job), job.inversion
        single = job.precision != "float64"
        solved = self.vectors or len(self.inputs.train.rows)  # self-influences: one for each row
        alive = method.vectors_of_each(single=single)
        fitting = budget // max(1, rhs_bytes(vector, job.damping_count, alive))
        together = max(1, min(solved, method.together, fitting))
        held = method.vectors_held(together, single=single)
        at_work = method.vectors_at_work(together, single=single)
        least = method.least_vectors(self.parameters)
        if least:  # it takes no more than the budget holds beside that
            held = min(held, max(least, VECTORS_COMPARED + together, budget // max(1, vector)))
            at_work = min(held, at_work)
        more = 3.0 * (job.damping_count - 1) * together
        passing = int(vector * (at_work + more)) + self._pass_bytes(job, together, budget)
        return max(int(vector * (held + more)), passing)

    def _pass_bytes(self, job: AttributionJob, together: int, budget: int) -> int:
        """Of a pass over the rows of H with so many vectors, and beside it what one in another precision has kept."""
        model, rows = self.inputs.model, len(self.inputs.hessian.rows)
        if model.activation_bytes is None:
            return 0
        windows = model.window_bytes or 0
        if job.curvature.differentiates_twice:
            windows += model.reached_bytes or 0
        wider = item_bytes(job) // (8 if model.precision == "float64" else 4)
        row = RowBytes(model.activation_bytes, windows).wider(max(1, wider))
        matrices = max(1, wider) * (model.place_matrix_bytes or 0)
        found = row.passing(rows, together, budget)
        if job.inversion.refines(single=job.precision != "float64"):
            found = row.kept(rows, budget) + row.wider(2).passing(rows, together, budget)
            matrices *= 3
        return found + matrices


def estimated(
    parts: Parts, namespace: str, job: AttributionJob, inputs: Inputs, rhs: int
) -> Estimate:
    """Of a job with so many right-hand sides."""
    found = Counted(job, inputs, rhs)
    spectrum = spectrum_of(job.model_dump(mode="json"), inputs.hessian.dataset.id)
    known = parts.experiences.of(namespace, inputs.model.id, spectrum)
    estimate = _told(parts, known, found, found.attribution(), found.bytes())
    cheaper = _cheaper(found, estimate, parts.settings.direct_parameters)
    return _with_remark(estimate.model_copy(update={**cheaper, **_known_to_fail(job, known)}))


def told(parts: Parts, namespace: str, found: Counted, work: Work, size: int) -> Estimate:
    """Of a job of any kind, of which this work and the bytes of its result were counted."""
    known = parts.experiences.of(namespace, found.inputs.model.id)
    return _with_remark(_told(parts, known, found, work, size + 2 * FILE_BYTES))


def trained(
    parts: Parts,
    namespace: str,
    found: Counted,
    recipe: Recipe | None,
    trainings: list[tuple[int, int]],
    size: int,
    beside: Work = NOTHING,
) -> Estimate:
    """Of a job that trains: `trainings` are how many models, each on how many rows. `beside`: what else it does."""
    work, steps = beside, 0
    for models, rows in trainings if recipe is not None else ():
        assert recipe is not None
        work += Work(gradients=float(models * recipe.epochs * rows))
        steps += models * recipe.steps(rows)
    known = parts.experiences.of(namespace, found.inputs.model.id)
    estimate = _told(parts, known, found, work, size)
    seconds = (estimate.seconds or 0.0) + STEP_SECONDS * steps
    return _with_remark(estimate.model_copy(update={"seconds": seconds}))


def _told(parts: Parts, known: Experience, found: Counted, work: Work, size: int) -> Estimate:
    settings = parts.settings
    rate = known.rate or ASSUMED_FLOPS_PER_SECOND
    fixed = FIXED_SECONDS if known.fixed_seconds is None else known.fixed_seconds
    flops = work.operations(float(found.parameters * positions_of(found.inputs.model.outputs)))
    return Estimate(
        seconds=fixed + flops / rate + work.passes * PASS_SECONDS,
        bytes=size,
        memory_bytes=found.memory(settings.memory_bytes, settings.cache_bytes),
        flops=flops,
        flops_per_second=rate,
        fixed_seconds=fixed,
        rate=f"that of job {known.rate_job}" if known.rate else ASSUMED,
    )


def _with_remark(estimate: Estimate) -> Estimate:
    remarks = [estimate.fails] if estimate.fails else []
    if estimate.seconds is not None and estimate.seconds > DAY:
        remarks.append(
            f"this job takes about {estimate.seconds / DAY:.1f} days at {estimate.flops_per_second:.2g} operations a "
            f"second ({estimate.rate})" + (f"; {estimate.cheaper}" if estimate.cheaper else "")
        )
    return estimate.model_copy(update={"remark": "; ".join(remarks) or None})


def _bytes_of(dataset: DatasetRecord) -> int:
    row = sum(
        prod(each or 1 for each in column.shape) * np.dtype(column.dtype).itemsize
        for column in dataset.columns
    )
    return (dataset.rows or 0) * row


def _cheaper(found: Counted, estimate: Estimate, direct_most: int) -> dict[str, Any]:
    """The fields of a cheaper method among those that are exact up to a tolerance, with their defaults."""
    job = found.job
    assert isinstance(job, AttributionJob)
    if job.curvature.closed_form or getattr(job, "factors", None) is not None:
        return {}
    own, used = job.inversion.method, float(found.size().used)
    rate, fixed = estimate.flops_per_second or 1.0, estimate.fixed_seconds or 0.0
    best: tuple[float, str] | None = None
    for name, method in METHODS.items():
        too_large = method.builds_matrix and found.parameters > direct_most
        if name == own or method.answer == "low rank" or too_large:
            continue
        work = found.attribution(method())
        other = fixed + work.operations(used) / rate + work.passes * PASS_SECONDS
        if other < MUCH_CHEAPER * (estimate.seconds or 0.0) and (best is None or other < best[0]):
            best = other, name
    if best is None:
        return {}
    seconds, name = best
    return {
        "cheaper": f"method {name!r} takes about {seconds:.3g} s",
        "cheaper_inversion": {"method": name},
        "cheaper_seconds": seconds,
    }


def _known_to_fail(job: AttributionJob, known: Experience) -> dict[str, Any]:
    """The fields of a λ that does not lift the smallest eigenvalue above 0, by what an earlier job has told of it."""
    smallest = known.smallest
    if getattr(job, "factors", None) is not None or smallest is None:
        return {}
    wrong = [one for one in numbers(job.hessian_regularization) if one + smallest <= 0.0]
    if not wrong:
        return {}
    words = (
        f"λ = {wrong[0]:.4g} is known to fail: the smallest eigenvalue of the {job.curvature.label} is "
        f"{smallest:.4g} by job {known.smallest_job}; give more than {abs(smallest):.4g}"
    )
    return {
        "fails": words,
        "enough": float(f"{-BEYOND * smallest:.2g}") if smallest < 0.0 else None,
    }
