"""Preparing a job that has an inversion: influences, factors, products, self-influences."""

from __future__ import annotations

from dataclasses import replace

from service.blobs.records import find_blob
from service.jobs.estimate import estimated
from service.jobs.extending import extended
from service.jobs.given_vectors import vector_count
from service.jobs.groups import groups_of, refuse_rescaling
from service.jobs.prepared import Prepared, chosen, own_precision, queued, ready_model, refuse_long
from service.jobs.validation.blobs import (
    as_solved,
    factors_of,
    job_with_factors,
    refuse_what_is_not_given,
)
from service.jobs.validation.compatibility import (
    fitted,
    refuse_curvature,
    refuse_measurement,
    refuse_positions,
    refuse_row_weights,
)
from service.jobs.validation.inputs import Chosen, Inputs
from service.jobs.validation.singular import refuse_singular
from service.jobs.validation.size import refuse_beyond_memory, refuse_too_much, result_bytes
from service.parts import Parts
from service.storage.keys import Document, is_id
from service.storage.layout import blob_path
from service.storage.tensors import BadTensors, read_header
from upweight.errors import InvalidRequest
from upweight.schema import (
    AttributionJob,
    ColumnMatch,
    IhvpJob,
    IndexJob,
    InfluencesJob,
    JobRecord,
    Trained,
    parse_rows,
)


def prepared(parts: Parts, namespace: str, job: AttributionJob) -> Prepared:
    """Raises InvalidRequest, NotFound, NotReady, ResultTooLarge, each naming its field."""
    if isinstance(job, IndexJob):
        job = extended(parts, namespace, job)
    inputs = find_inputs(parts, namespace, job)
    job = job.model_copy(update={"precision": job.precision or own_precision(inputs.model)})
    job = _damped_by_recipe(job, inputs)
    earlier = None
    if isinstance(job, InfluencesJob) and job.factors is not None:
        earlier = job_with_factors(parts, namespace, job.factors)
        job = as_solved(job, earlier, inputs)
        inputs = replace(
            find_inputs(parts, namespace, job),
            given_rows=earlier["result"]["factor_shape"][-2],
        )
    if isinstance(job, InfluencesJob):
        inputs = replace(inputs, groups=groups_of(parts, namespace, job, inputs))
        refuse_rescaling(parts.settings, job, inputs)
    refuse_curvature(job, inputs.model)
    matched = fitted(inputs, job.columns)
    refuse_measurement(job, inputs)
    refuse_positions(job, inputs)
    refuse_row_weights(job, inputs.model)
    refuse_what_is_not_given(parts, namespace, job, inputs, matched, earlier)
    refuse_long(parts, job)
    refuse_too_much(parts.settings, job, inputs)
    if earlier is None:
        refuse_singular(job, inputs)
    count = _right_hand_sides(parts, namespace, job, inputs)
    record = _record(job, inputs, matched, earlier)
    expected = record.estimate = estimated(parts, namespace, job, inputs, count)
    refuse_beyond_memory(parts.settings, job, expected.memory_bytes)
    return Prepared(record, result_bytes(job, inputs, count))


def _right_hand_sides(parts: Parts, namespace: str, job: AttributionJob, inputs: Inputs) -> int:
    """How many; of a blob that does not say, which the worker refuses, 0. Raises InvalidRequest, NotFound."""
    if not isinstance(job, IhvpJob):
        return inputs.test_count
    if is_id("job", job.rhs):
        return vector_count(parts, namespace, job.rhs, "/rhs", inputs.model)
    if find_blob(parts.objects, namespace, job.rhs) is None:
        words = f"there is no such blob here; upload it first: PUT /v1/blobs/{job.rhs}"
        raise InvalidRequest.field("/rhs", words, job.rhs)
    try:
        found = read_header(parts.objects, blob_path(namespace, job.rhs))
        return found["rhs"].shape[0]
    except (BadTensors, KeyError, IndexError, FileNotFoundError):
        return 0


def _damped_by_recipe(job: AttributionJob, inputs: Inputs) -> AttributionJob:
    """λ `auto` of a model with a recipe is that of its steps, where such steps say something of λ."""
    recipe = inputs.model.recipe
    if job.hessian_regularization != "auto" or recipe is None:
        return job
    steps = recipe.damping(len(inputs.hessian.rows))
    if steps is None:
        return job
    return job.model_copy(update={"hessian_regularization": Trained(auto=steps)})


def find_inputs(parts: Parts, namespace: str, job: AttributionJob) -> Inputs:
    """Raises NotFound, NotReady, InvalidRequest, each naming its field."""
    model = ready_model(parts, namespace, job.model)
    train = chosen(parts, namespace, job.train, "/train")
    test = getattr(job, "test", None)
    # Over all rows, whichever of them influence is asked for.
    whole = Chosen("/train", train.dataset, parse_rows(None, train.dataset.rows or 0))
    return Inputs(
        model=model,
        train=train,
        test=chosen(parts, namespace, test, "/test") if test is not None else None,
        hessian=chosen(parts, namespace, job.hessian_on, "/hessian_on")
        if job.hessian_on is not None
        else whole,
    )


def _record(
    job: AttributionJob, inputs: Inputs, matched: list[ColumnMatch], earlier: Document | None
) -> JobRecord:
    record = queued(job, inputs.model, inputs.train, matched)
    record.test_id = None if inputs.test is None else inputs.test.dataset.id
    record.hessian_id = inputs.hessian.dataset.id
    record.groups = inputs.groups
    record.factors_of = None if earlier is None else factors_of(earlier)
    return record
