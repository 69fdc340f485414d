"""What a job will take: counts from its request and records, at the rate that an earlier job of the model had."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from service.jobs.validation.inputs import Inputs
from service.jobs.validation.size import item_bytes, result_bytes
from service.jobs.validation.structures import least_bytes
from service.parts import Parts
from service.registry import filters_of
from service.storage.keys import by_use
from upweight.schema import AttributionJob, DatasetRecord, JobRecord, JobState
from upweight.schema.damping import numbers
from upweight.schema.estimate import Estimate
from upweight.schema.inversion import METHODS, InversionMethod

DAY = 86_400.0
# Of a worker that nothing is known of, with some cores: an order of magnitude.
ASSUMED_FLOPS_PER_SECOND = 2e10
ASSUMED = "assumed: no earlier job of this model tells one"
# Operations a row and parameter: of a gradient; of a product of C with a vector, with the model's second derivative and
# without; and of C itself, a row and entry.
GRADIENT, BENT, STRAIGHT, BUILDING = 6.0, 12.0, 8.0, 4.0
FACTORISING = 1.0 / 3.0  # of p³
MOST_FORMED = 64  # outputs of a row, each a column of a curvature
BEGINNING_SECONDS = 0.5  # to load, check and store, however little there is to do
LOOKED_AT = 20  # earlier jobs
LEAST_FLOPS = 5e9  # of a job that a rate is taken from: of less, most of the time is spent on calls
WORKER_BYTES = 400 * 1024**2  # of a process with torch, before it has loaded anything
MUCH_CHEAPER = 0.5
PREDICTED_ROW = 2  # numbers of a row beside two whole ones: its loss, its error
VECTORS_ALIVE = 6  # (k, p) blocks that an inversion has at once
FILE_BYTES = 400  # of a header, or of a small file of JSON


@dataclass(frozen=True)
class Counted:
    """Of one job: rows, parameters, and how often a row's parameters are used."""

    job: AttributionJob
    inputs: Inputs
    right_hand_sides: int

    @property
    def parameters(self) -> int:
        """p."""
        return self.inputs.model.parameter_count or 0

    @property
    def positions(self) -> int:
        """Of a row: a sequence passes through the parameters once a position."""
        outputs = self.inputs.model.outputs
        shape = [each or 1 for each in outputs[0].shape[1:]] if outputs else []
        return max(1, prod(shape) // max(shape)) if len(shape) > 1 else 1

    def flops(self, inversion: InversionMethod) -> float:
        """Operations in all, with this method."""
        job, p = self.job, float(self.parameters)
        rows, train = len(self.inputs.hessian.rows), len(self.inputs.train.rows)
        solved = train if job.is_self else self.right_hand_sides
        used = p * self.positions
        curvature = job.curvature
        product = (BENT if curvature.differentiates_twice else STRAIGHT) * rows * used
        fit = product * inversion.fit_products(self.parameters)
        several = job.damping_count
        if curvature.closed_form:
            fit = GRADIENT * rows * used * curvature.fit_gradients * self._columns()
            product = 2.0 * p
        elif inversion.builds_matrix or curvature.builds_matrix:
            fit = BUILDING * rows * self.positions * p * p + FACTORISING * p**3
        together = min(max(1, solved), inversion.together)
        taken = getattr(job, "factors", None) is not None
        solving = 0.0
        if not taken:
            solving = several * inversion.products(solved, together) * product
            solving += GRADIENT * used * solved
            if inversion.builds_matrix:
                solving += several * 2.0 * p * p * solved
        scoring = 0.0
        if job.scores_rows and not job.is_self:
            scoring = train * (GRADIENT * used + several * 2.0 * p * max(1, solved))
            if (
                getattr(job, "scores_by", "row") == "token"
            ):  # each factor goes back through the model
                scoring += train * several * max(1, solved) * GRADIENT * used
        return (0.0 if taken else fit) + solving + scoring

    def _columns(self) -> int:
        job, outputs = self.job, self.inputs.model.outputs
        if job.curvature.facts.one_column_a_row or not outputs:
            return 1
        width = prod(each or 1 for each in outputs[0].shape[1:])
        return width if width <= MOST_FORMED else 1

    def bytes(self) -> int:
        """Of the result: arrays, what the model makes of the rows, and what is told of the inversion."""
        job, item = self.job, item_bytes(self.job)
        size = result_bytes(job, self.inputs, self.right_hand_sides)
        test = len(self.inputs.test.rows) if self.inputs.test is not None else 0
        predicted = sum(
            {"test": test, "train": len(self.inputs.train.rows)}[side] for side in job.predicts
        )
        size += predicted * (PREDICTED_ROW * item + 16)
        if job.inversion.builds_matrix and not job.curvature.closed_form:
            size += self.parameters * (self.parameters + 1) * item  # the matrix, and its spectrum
        return size + job.damping_count * self.right_hand_sides * 4 * 8 + 4 * FILE_BYTES

    def memory(self, most: int, cache: int) -> int:
        """Of a worker: the model, the rows, what is made of C, and blocks within its budget."""
        item, p = item_bytes(self.job), self.parameters
        kept = 3 * self.inputs.model.size_bytes
        datasets = {each.dataset.id: each.dataset for each in self.inputs.chosen}.values()
        kept += min(cache, sum(map(_bytes_of, datasets)))
        working = VECTORS_ALIVE * max(1, self.right_hand_sides) * p * item
        if self.job.curvature.closed_form:
            selected = self.inputs.model.selected
            kept += sum(least_bytes(selected, self.job.curvature.structure, item).values())
        elif self.job.building is not None or self.job.curvature.builds_matrix:
            kept += 3 * p * p * item
        return WORKER_BYTES + kept + min(most, working)


def estimated(
    parts: Parts, namespace: str, job: AttributionJob, inputs: Inputs, rhs: int
) -> Estimate:
    """Of a job with so many right-hand sides."""
    counted = Counted(job, inputs, rhs)
    flops = counted.flops(job.inversion)
    earlier = _earlier(parts, namespace, inputs.model.id)
    rate, where = _rate(earlier)
    seconds = BEGINNING_SECONDS + flops / rate
    cheaper = _cheaper(counted, seconds, rate, parts.settings.direct_parameters)
    fails = _known_to_fail(job, inputs, earlier)
    remarks = [fails] if fails else []
    if seconds > DAY:
        remarks.append(
            f"this job takes about {seconds / DAY:.1f} days at {rate:.2g} operations a second ({where})"
            + (f"; {cheaper}" if cheaper else "")
        )
    settings = parts.settings
    return Estimate(
        seconds=seconds,
        bytes=counted.bytes(),
        memory_bytes=counted.memory(settings.memory_bytes, settings.cache_bytes),
        flops=flops,
        flops_per_second=rate,
        rate=where,
        cheaper=cheaper,
        fails=fails,
        remark="; ".join(remarks) or None,
    )


def _bytes_of(dataset: DatasetRecord) -> int:
    row = sum(prod(each or 1 for each in column.shape) * 8 for column in dataset.columns)
    return (dataset.rows or 0) * row


def _earlier(parts: Parts, namespace: str, model: str) -> list[JobRecord]:
    """The newest jobs of the model that succeeded."""
    filters = [*filters_of(state=JobState.SUCCEEDED), by_use(model)]
    found = parts.records.page("job", namespace, limit=LOOKED_AT, filters=filters)
    documents = parts.records.get_many("job", namespace, found.ids)
    return [JobRecord.model_validate(each) for each in documents]


def _rate(earlier: list[JobRecord]) -> tuple[float, str]:
    """The best of them: what else takes time in a job only ever lowers it."""
    found: list[tuple[float, str]] = []
    for each in earlier:
        told, cost = each.estimate, each.cost
        if told is None or told.flops is None or cost is None or not cost.engine_seconds:
            continue
        # A job that found its solutions, or its fit, has done less than was counted.
        worked = cost.hessian_passes > 0 and not (each.info or {}).get("reused")
        if told.flops >= LEAST_FLOPS and worked:
            found.append((told.flops / cost.engine_seconds, f"that of job {each.id}"))
    return max(found, default=(ASSUMED_FLOPS_PER_SECOND, ASSUMED))


def _cheaper(counted: Counted, seconds: float, rate: float, direct_most: int) -> str | None:
    """Of the methods that are exact up to a tolerance, with their defaults."""
    job = counted.job
    if job.curvature.closed_form or getattr(job, "factors", None) is not None:
        return None
    own = job.inversion.method
    best: tuple[float, str] | None = None
    for name, method in METHODS.items():
        too_large = method.builds_matrix and counted.parameters > direct_most
        if name == own or method.answer == "low rank" or too_large:
            continue
        other = BEGINNING_SECONDS + counted.flops(method()) / rate
        if other < MUCH_CHEAPER * seconds and (best is None or other < best[0]):
            best = other, name
    return None if best is None else f"method {best[1]!r} takes about {best[0]:.3g} s"


def _known_to_fail(job: AttributionJob, inputs: Inputs, earlier: list[JobRecord]) -> str | None:
    """λ that does not lift the smallest eigenvalue above 0, of a matrix that an earlier job has told it of."""
    if getattr(job, "factors", None) is not None:
        return None
    rows = job.hessian_on.rows if job.hessian_on is not None else None
    for each in earlier:
        request = each.request
        if not isinstance(request, AttributionJob) or each.hessian_id != inputs.hessian.dataset.id:
            continue
        before = request.hessian_on.rows if request.hessian_on is not None else None
        smallest = (each.info or {}).get("smallest_eigenvalue")
        if before != rows or request.curvature != job.curvature or not isinstance(smallest, float):
            continue
        wrong = [one for one in numbers(job.hessian_regularization) if one + smallest <= 0.0]
        if wrong:
            return (
                f"λ = {wrong[0]:.4g} is known to fail: the smallest eigenvalue of the {job.curvature.label} is "
                f"{smallest:.4g} by job {each.id}; give more than {-smallest:.4g}"
            )
    return None
