"""Whether a job is within the limits: the method's, the result's, the operator's."""

from __future__ import annotations

from math import isqrt, prod

from service.jobs.validation.compatibility import floating_inputs, label_column
from service.jobs.validation.inputs import Inputs
from service.jobs.validation.structures import least_bytes, module_sizes, refuse_large_structure
from service.settings import Settings
from upweight.errors import InvalidRequest, ResultTooLarge
from upweight.schema import (
    AttributionJob,
    CurvatureJob,
    FactorsJob,
    IhvpJob,
    IndexJob,
    InfluencesJob,
    JobBase,
    ModelRecord,
    SelfInfluencesJob,
)
from upweight.schema.indexes import USUAL_DIMENSION
from upweight.schema.inversion import methods_in_words
from upweight.schema.method import InversionMethod

_TABLE_BYTES = 64 * 1024**2  # of sums over groups of both sides
_NUMBER_BYTES = {"float16": 2, "int8": 1}  # of an index
_FACTOR_BYTES = 4  # of what the numbers of a row are times
_TOP_ENTRY_EXTRA = 8  # of a kept entry: its column's number


def refuse_too_much(settings: Settings, job: AttributionJob, inputs: Inputs) -> None:
    """Raises InvalidRequest, ResultTooLarge."""
    refuse_large_curvature(settings, job, inputs.model)
    _method_within_limits(settings, job, inputs.model.parameter_count)
    refuse_vectors_beyond_memory(settings, job, inputs.model.parameter_count)
    _blocks_within_limits(settings, job, inputs)
    if isinstance(job, InfluencesJob):
        perturbed = perturbed_shape(job, inputs)
        _influences_within_limits(settings, job, inputs, perturbed)
        _parts_within_limits(settings, job, inputs)
    if isinstance(job, FactorsJob):
        _factors_within_limits(settings, job, inputs, "/kind")
    if isinstance(job, IndexJob):
        _index_within_limits(settings, job, inputs)


def refuse_beyond_memory(settings: Settings, job: AttributionJob, needed: int) -> None:
    """Raises InvalidRequest where a job is estimated to take more bytes of a worker than the operator gives one."""
    most = settings.job_memory_bytes
    if most is None or needed <= most:
        return
    ways = ["register the model with fewer 'parameters' ('head.*')"]
    if job.curvature.closed_form:
        ways.append("choose structure 'diagonal'")
    raise InvalidRequest.field(
        "/model",
        f"this job is estimated to take {needed:,} bytes of a worker, and {most:,} are given to one; "
        f"{', '.join(ways)}, "
        "or ask the operator for more UPWEIGHT_JOB_MEMORY_BYTES",
        job.model,
    )


def refuse_large_curvature(settings: Settings, job: CurvatureJob, model: ModelRecord) -> None:
    """Raises InvalidRequest where what is kept of it is more than a worker makes."""
    count = model.parameter_count
    if count is not None and job.curvature.builds_matrix and count > settings.direct_parameters:
        structure = job.curvature.structure
        raise InvalidRequest.field(
            "/curvature/structure",
            f"{structure!r} of the Hessian is cut out of the full matrix, for up to {settings.direct_parameters} "
            f"parameters; the model selects {count}. Choose kind 'gauss_newton', 'fisher' or 'empirical_fisher', "
            "whose blocks need no full matrix, or register the model with fewer 'parameters' ('head.*')",
            structure,
        )
    refuse_large_structure(settings, job, model)


def _method_within_limits(settings: Settings, job: AttributionJob, count: int | None) -> None:
    if count is None:
        return
    builder = job.building
    if builder is not None and count > settings.direct_parameters:
        method = type(builder).model_fields["method"].default
        others = methods_in_words(building_h=False, quote="'")
        raise InvalidRequest.field(
            "/inversion/method" if builder is job.inversion else "/inversion/preconditioner",
            f"{method!r} makes the full Hessian, for up to {settings.direct_parameters} parameters; the model "
            f"selects {count}. Choose {others}, or register the model with fewer 'parameters' ('head.*')",
            method,
        )


def refuse_vectors_beyond_memory(
    settings: Settings, job: AttributionJob, count: int | None
) -> None:
    """Raises InvalidRequest where the vectors that a method holds at least are more than a worker may take."""
    if count is None or job.curvature.closed_form:
        return
    inner = getattr(job.inversion, "preconditioner", None)
    for method, pointer in ((job.inversion, "/inversion"), (inner, "/inversion/preconditioner")):
        least = method.least_vectors(count) if isinstance(method, InversionMethod) else 0
        needed = least * count * item_bytes(job)
        if needed > settings.memory_bytes:
            assert isinstance(method, InversionMethod)
            field = method.rank_field
            raise InvalidRequest.field(
                f"{pointer}/{field}" if field else pointer,
                f"{method.label} holds {least} vectors of {count:,} parameters, {needed:,} bytes, and a worker may use "
                f"{settings.memory_bytes:,}; give fewer directions, choose method 'cg', register the model with fewer "
                "'parameters' ('head.*'), or ask the operator for more UPWEIGHT_MEMORY_BYTES",
                getattr(method, field) if field else None,
            )


def _blocks_within_limits(settings: Settings, job: AttributionJob, inputs: Inputs) -> None:
    """Each block is a task and an object: a few thousand are plenty."""
    wish, columns = job.blocks, len(inputs.train.rows)
    rows = inputs.test_count
    counts = {
        "train_rows": _blocks(columns, wish.train_rows) * _blocks(rows, wish.test_rows),
        "rhs_rows": _blocks(rows, wish.rhs_rows),
        "hessian_rows": _blocks(len(inputs.hessian.rows), wish.hessian_rows),
    }
    for field, count in counts.items():
        if count > settings.blocks:
            raise InvalidRequest.field(
                f"/blocks/{field}",
                f"this cuts the job into {count} blocks; at most {settings.blocks} are taken. Give larger ones",
                getattr(wish, field),
            )


def _blocks(total: int, step: int | None) -> int:
    return max(1, -(-total // step)) if step else 1


def perturbed_shape(job: InfluencesJob, inputs: Inputs) -> tuple[int, ...]:
    """The shape of one influence: () for `up`, the input's for `perturbation`. Raises InvalidRequest.

    That of an inner module's output is known to the worker alone, and counts as ().
    """
    if job.influence_type == "up" or job.perturb_at is not None:
        return ()
    dataset = inputs.train.dataset
    floating = floating_inputs(dataset)
    if job.perturb_input is not None and job.perturb_input not in floating:
        raise InvalidRequest.field(
            "/perturb_input",
            f"{job.perturb_input!r} is no floating-point input of {dataset.name!r}; these are {floating or 'none'}",
            job.perturb_input,
        )
    if job.perturb_input is None and len(floating) != 1:
        raise InvalidRequest.field(
            "/influence_type",
            f"perturbation needs one floating-point input; dataset {dataset.name!r} has {floating or 'none'}"
            + (
                "; choose one with 'perturb_input'"
                if floating
                else ", and whole numbers can't be moved a little"
            ),
            "perturbation",
        )
    name = job.perturb_input or floating[0]
    column = next(column for column in dataset.columns if column.name == name)
    return tuple(size or 1 for size in column.shape)


def _influences_within_limits(
    settings: Settings, job: InfluencesJob, inputs: Inputs, one: tuple[int, ...]
) -> None:
    (m, n), item = inputs.shape, item_bytes(job)
    if job.keep.top > n:
        what = "groups of training rows" if "train" in job.grouped_sides else "training rows"
        raise InvalidRequest.field(
            "/keep/top", f"there are {n} {what} to choose the top from", job.keep.top
        )
    if job.tabulates:
        _table_within_limits(job, (m, n), prod(one))
    several = job.damping_count
    matrix = several * m * n * prod(one) * item if job.keep.matrix else 0
    if matrix > settings.result_bytes:
        raise ResultTooLarge.field(
            "/keep/matrix",
            f"{_times(job)}{m} test rows by {n} training rows{_of(one)} are {matrix} bytes, over the limit of "
            f"{settings.result_bytes}. Set keep.matrix to false and keep.top (the strongest rows of each test row) "
            "or keep.mean, or choose fewer rows",
            True,
        )
    top = several * 2 * m * job.keep.top * (item + _TOP_ENTRY_EXTRA)
    if top > settings.result_bytes:
        raise ResultTooLarge.field(
            "/keep/top",
            f"{top} bytes are over the limit of {settings.result_bytes}; keep fewer",
            job.keep.top,
        )
    if job.keep.factors:
        _factors_within_limits(settings, job, inputs, "/keep/factors")


def parts_of(job: InfluencesJob, inputs: Inputs) -> int:
    """How many parts of one influence are stored."""
    if job.scores_by == "row":
        return 0
    if job.scores_by == "layer":
        return len(module_sizes(inputs.model.selected))
    target = label_column(inputs.model, inputs.train.dataset)
    return prod(each or 1 for each in target.shape)


def _parts_within_limits(settings: Settings, job: InfluencesJob, inputs: Inputs) -> None:
    """Raises ResultTooLarge."""
    parts, (m, n) = parts_of(job, inputs), inputs.shape
    size = job.damping_count * m * n * parts * item_bytes(job)
    if size > settings.result_bytes:
        raise ResultTooLarge.field(
            "/scores_by",
            f"{_times(job)}{m} test rows by {n} training rows by {parts} {job.scores_by}s are {size} bytes, over the "
            f"limit of {settings.result_bytes}. Choose fewer rows: those that a first job by row ranks highest",
            job.scores_by,
        )


def _table_within_limits(job: InfluencesJob, shape: tuple[int, int], entries: int) -> None:
    """Raises InvalidRequest: the sums of groups are in memory together."""
    m, n = shape
    sides = job.grouped_sides
    size = 8 * job.damping_count * entries * (m if "test" in sides else 1)
    size *= n if "train" in sides else 1
    if size > _TABLE_BYTES:
        raise InvalidRequest.field(
            "/aggregate",
            f"the sums over these groups ({m} by {n}) are {size} bytes, and {_TABLE_BYTES} are taken; group by a "
            "column with fewer values",
            None,
        )


def _factors_within_limits(
    settings: Settings, job: AttributionJob, inputs: Inputs, pointer: str
) -> None:
    rows, count = inputs.test_count, inputs.model.parameter_count or 0
    size = job.damping_count * rows * count * item_bytes(job)
    if size > settings.result_bytes:
        raise ResultTooLarge.field(
            pointer,
            f"the factors of {_times(job)}{rows} test rows by {count} parameters are {size} bytes, over the limit of "
            f"{settings.result_bytes}; choose fewer test rows, or do not keep them",
            True,
        )


def _index_within_limits(settings: Settings, job: IndexJob, inputs: Inputs) -> None:
    layers = module_sizes(inputs.model.selected)
    largest = max(layers, key=layers.__getitem__, default="")
    if layers and job.dimension > max(USUAL_DIMENSION, layers[largest]):
        raise InvalidRequest.field(
            "/dimension",
            f"no layer has so many parameters: the largest of model {inputs.model.name!r} is {largest!r} with "
            f"{layers[largest]:,}; give at most that, or leave it out",
            job.dimension,
        )
    size = _index_bytes(job, inputs)
    if size > settings.result_bytes:
        raise ResultTooLarge.field(
            "/dimension",
            f"an index of {len(inputs.train.rows):,} rows is {size:,} bytes, over the limit of "
            f"{settings.result_bytes:,}; give a smaller dimension, or fewer rows",
            job.dimension,
        )


def _index_bytes(job: IndexJob, inputs: Inputs) -> int:
    """Numbers, a factor a row, and the eigenvectors, as far as shapes tell of these."""
    width = sum(min(job.dimension, size) for size in module_sizes(inputs.model.selected).values())
    structure, item = job.curvature.structure, item_bytes(job)
    fit = sum(least_bytes(inputs.model.selected or (), structure, item).values())
    if job.projection.is_random:
        fit += _projection_bytes(job, inputs)
    return len(inputs.train.rows) * (_NUMBER_BYTES[job.stored_as] * width + _FACTOR_BYTES) + fit


def _projection_bytes(job: IndexJob, inputs: Inputs) -> int:
    """Of a random projection: what whitens each layer's numbers, and about what projects them."""
    sizes = module_sizes(inputs.model.selected).values()
    whitening = sum(min(job.dimension, size) ** 2 for size in sizes)
    sides = 0
    for each in inputs.model.selected or ():
        count = prod(each.shape)
        if count > job.dimension:
            outputs = each.shape[0] if len(each.shape) > 1 else 1
            sides += isqrt(job.dimension) * (outputs + count // outputs)
    return item_bytes(job) * (whitening + sides)


def result_bytes(job: AttributionJob, inputs: Inputs, right_hand_sides: int = 0) -> int:
    """What a job will store, as far as that is known before it runs: arrays, not their info.

    `right_hand_sides`: of kind `ihvp`, where their number is known.
    """
    m, n, item = inputs.test_count, len(inputs.train.rows), item_bytes(job)
    several = job.damping_count
    factors = several * m * (inputs.model.parameter_count or 0) * item
    if isinstance(job, FactorsJob):
        return factors
    if isinstance(job, IhvpJob):
        return several * right_hand_sides * (inputs.model.parameter_count or 0) * item
    if isinstance(job, IndexJob):
        return _index_bytes(job, inputs)
    if not isinstance(job, InfluencesJob):
        return several * n * item if isinstance(job, SelfInfluencesJob) else 0
    m, n = inputs.shape
    keep = job.keep
    size = m * n * prod(perturbed_shape(job, inputs)) * item if keep.matrix else 0
    size += m * n * parts_of(job, inputs) * item
    size += 2 * m * keep.top * (item + _TOP_ENTRY_EXTRA) + (n * item if keep.mean else 0)
    if job.rescales:
        size += m * n * item
    return several * size + (factors if keep.factors else 0)


def item_bytes(job: JobBase) -> int:
    """Bytes of one number of the result."""
    return 8 if job.precision == "float64" else 4


def _times(job: AttributionJob) -> str:
    return f"{job.damping_count} λ's by " if job.has_damping_axis else ""


def _of(shape: tuple[int, ...]) -> str:
    return f" by {' by '.join(map(str, shape))} inputs" if shape else ""
