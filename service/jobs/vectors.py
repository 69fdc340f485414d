"""Preparing a job that stores vectors without an inversion: gradients of rows, products with a curvature."""

from __future__ import annotations

from fnmatch import fnmatchcase
from math import prod

from service.jobs.estimate import Counted, told
from service.jobs.given_vectors import vector_count
from service.jobs.prepared import Prepared, chosen, own_precision, queued, ready_model, refuse_long
from service.jobs.validation.compatibility import fitted, refuse_curvature, refuse_measurement
from service.jobs.validation.inputs import Inputs
from service.jobs.validation.size import item_bytes, refuse_large_curvature
from service.parts import Parts
from service.storage import keys
from upweight.errors import InvalidRequest, ResultTooLarge
from upweight.schema import GradientsJob, HvpJob, ModelRecord

_SHOWN = 5  # names


def prepared_gradients(parts: Parts, namespace: str, job: GradientsJob) -> Prepared:
    """Raises InvalidRequest, NotFound, NotReady, ResultTooLarge, each naming its field."""
    model = ready_model(parts, namespace, job.model)
    job = job.model_copy(update={"precision": job.precision or own_precision(model)})
    rows = chosen(parts, namespace, job.train, "/train")
    # The rows are those that a measurement is of.
    inputs = Inputs(model=model, train=rows, test=rows, hessian=rows)
    matched = fitted(Inputs(model=model, train=rows, test=None, hessian=rows), job.columns)
    if job.measurement.name == "span":
        raise InvalidRequest.field(
            "/measurement",
            "kind 'gradients' takes 'loss', 'margin' and 'logit'; the gradients of a span are the factors (kind "
            "'factors') of curvature {\"structure\": \"identity\"} with method 'direct' and λ = 0",
            "span",
        )
    refuse_measurement(job, inputs)
    refuse_long(parts, job)
    width = _width(job, model)
    count = len(rows.rows)
    size = count * width * item_bytes(job)
    if size > parts.settings.result_bytes:
        raise ResultTooLarge.field(
            "/train/rows",
            f"the gradients of {count} rows by {width} parameters are {size} bytes, over the limit of "
            f"{parts.settings.result_bytes}. Choose fewer rows, or fewer 'parameters' ('head.*')",
            job.train.rows,
        )
    record = queued(job, model, rows, matched)
    counted = Counted(job, inputs, count)
    record.estimate = told(parts, namespace, counted, counted.gradients(), size)
    return Prepared(record, size)


def prepared_products(parts: Parts, namespace: str, job: HvpJob) -> Prepared:
    """Raises InvalidRequest, NotFound, NotReady, NotStored, ResultTooLarge, each naming its field."""
    model = ready_model(parts, namespace, job.model)
    job = job.model_copy(update={"precision": job.precision or own_precision(model)})
    rows = chosen(parts, namespace, job.train, "/train")
    inputs = Inputs(model=model, train=rows, test=None, hessian=rows)
    refuse_curvature(job, model)
    matched = fitted(inputs, job.columns)
    refuse_long(parts, job)
    refuse_large_curvature(parts.settings, job, model)
    count = vector_count(parts, namespace, job.vectors, "/vectors", model)
    size = count * (model.parameter_count or 0) * item_bytes(job)
    if size > parts.settings.result_bytes:
        raise ResultTooLarge.field(
            "/vectors",
            f"the products of {count} vectors by {model.parameter_count} parameters are {size} bytes, over the limit "
            f"of {parts.settings.result_bytes}; give fewer vectors",
            job.vectors,
        )
    record = queued(job, model, rows, matched)
    record.hessian_id = rows.dataset.id
    if keys.is_id("dataset", job.vectors):
        record.test_id = job.vectors
    counted = Counted(job, inputs, count)
    record.estimate = told(parts, namespace, counted, counted.products(), size)
    return Prepared(record, size)


def _width(job: GradientsJob, model: ModelRecord) -> int:
    """Numbers of a stored gradient. Raises InvalidRequest for a glob that no selected parameter matches."""
    if job.parameters is None or not model.selected:
        return model.parameter_count or 0
    names = [each.name for each in model.selected]
    for at, glob in enumerate(job.parameters):
        if not any(fnmatchcase(name, glob) for name in names):
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise InvalidRequest.field(
                f"/parameters/{at}",
                f"no selected parameter of {model.name!r} matches {glob!r}; it has "
                f"{', '.join(names[:_SHOWN])}{more}",
                glob,
            )
    return sum(
        prod(each.shape)
        for each in model.selected
        if any(fnmatchcase(each.name, glob) for glob in job.parameters)
    )
