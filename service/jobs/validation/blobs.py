"""What a job is given beside records, blobs with tensors and an earlier job's factors: that it is there, and fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from service.blobs.records import find_blob
from service.jobs.given_vectors import job_with_vectors
from service.jobs.validation.inputs import Chosen, Inputs
from service.parts import Parts
from service.storage.keys import Document
from service.storage.stored_vectors import FACTORS, GRADIENTS
from upweight.errors import InvalidRequest
from upweight.schema import (
    AttributionJob,
    ColumnMatch,
    Curvature,
    Direct,
    FactorsOf,
    InfluencesJob,
    Inversion,
    Measurement,
    Selection,
    parse_rows,
)
from upweight.schema.damping import as_asked, in_words

LEFT_OUT = "leave this out to take the factors as they are, or leave out 'factors' to solve anew"
_INVERSION: TypeAdapter[Any] = TypeAdapter(Inversion)
_MEASUREMENT: TypeAdapter[Any] = TypeAdapter(Measurement)


def refuse_what_is_not_given(
    parts: Parts,
    namespace: str,
    job: AttributionJob,
    inputs: Inputs,
    matched: Sequence[ColumnMatch],
    earlier: Document | None,
) -> None:
    """Raises InvalidRequest, NotFound, each naming its field. `earlier`: the job whose factors are taken."""
    digests: dict[str, str | None] = {}
    if job.inversion.guess_field is not None:
        guess = job.inversion.guess_field
        digests[f"/inversion/{guess}"] = getattr(job.inversion, guess)
    if earlier is not None:
        digests = {}  # what the factors were solved from has been used
    for pointer, digest in digests.items():
        if digest is not None and find_blob(parts.objects, namespace, digest) is None:
            words = f"there is no such blob here; upload it first: PUT /v1/blobs/{digest}"
            raise InvalidRequest.field(pointer, words, digest)
    if earlier is not None:
        _factors_fit(earlier, inputs, matched)


def as_solved(job: InfluencesJob, earlier: Document, inputs: Inputs) -> InfluencesJob:
    """The job with λ, method and rows of the Hessian of the factors that it takes. Raises InvalidRequest where it names
    others."""
    id, request, given = earlier["id"], earlier["request"], job.model_fields_set
    damping, inversion = damping_of(earlier), request["inversion"]
    asked_for = job.model_dump(mode="json")["hessian_regularization"]
    if "hessian_regularization" in given and asked_for not in (
        damping,
        request["hessian_regularization"],
    ):
        words = f"the factors of {id} were solved for with λ {in_words(damping)}, not {in_words(asked_for)}"
        raise InvalidRequest.field("/hessian_regularization", f"{words}; {LEFT_OUT}", asked_for)
    curvature = Curvature.model_validate(request.get("curvature") or {})
    if "curvature" in given and job.curvature != curvature:
        words = f"the factors of {id} were solved for with curvature {curvature.label}, not {job.curvature.label}"
        raise InvalidRequest.field(
            "/curvature", f"{words}; {LEFT_OUT}", job.curvature.model_dump(mode="json")
        )
    measured = _MEASUREMENT.validate_python(request.get("measurement") or "loss")
    if "measurement" in given and job.measurement != measured:
        own = "right-hand sides of its own" if request["kind"] == "ihvp" else measured.label
        words = f"the factors of {id} were solved for with {own}, not with {job.measurement.label}"
        raise InvalidRequest.field(
            "/measurement", f"{words}; {LEFT_OUT}", job.measurement.model_dump(mode="json")
        )
    if "inversion" in given:
        asked = job.inversion.model_dump(mode="json")
        for name in ("method", *sorted(job.inversion.model_fields_set - {"method"})):
            if asked[name] != inversion.get(name, asked[name]):
                words = f"the factors of {id} were solved for with {name} {inversion[name]!r}, not {asked[name]!r}"
                raise InvalidRequest.field(
                    f"/inversion/{name}", f"{words}; {LEFT_OUT}", asked[name]
                )
    update: dict[str, Any] = {
        "curvature": curvature,
        "hessian_regularization": damping,
        "inversion": _INVERSION.validate_python(inversion),
        "measurement": measured,
    }
    if job.test is None and earlier["test_id"] is not None:
        update["test"] = Selection(dataset=earlier["test_id"], rows=request["test"]["rows"])
    return job.model_copy(update=update | _hessian_on(job, earlier, inputs))


def _hessian_on(job: InfluencesJob, earlier: Document, inputs: Inputs) -> dict[str, Any]:
    """The rows that the factors' Hessian is over, where the job has others by default. Raises InvalidRequest where it
    names others."""
    id = earlier["id"]
    rows = (earlier["request"]["hessian_on"] or {"rows": None})["rows"]
    # The identity is over no rows.
    if earlier["hessian_id"] is None or _same_rows(earlier["hessian_id"], rows, inputs.hessian):
        return {}
    if job.hessian_on is not None:
        words = f"the Hessian of the factors of {id} is over rows {rows or 'all'} of {earlier['hessian_id']}"
        raise InvalidRequest.field("/hessian_on", f"{words}; {LEFT_OUT}", job.hessian_on.dataset)
    return {"hessian_on": Selection(dataset=earlier["hessian_id"], rows=rows)}


def damping_of(job: Document) -> Any:
    """λ of a job's record as numbers: what it came to, where it was to be worked out."""
    asked, found = job["request"]["hessian_regularization"], job.get("damping")
    return as_asked(asked, found["values"]) if found else asked


def factors_of(earlier: Document) -> FactorsOf:
    """What the record says of them."""
    request, info = earlier["request"], earlier["info"] or {}
    before = earlier.get("factors_of") or {}
    return FactorsOf(
        job=earlier["id"],
        kind=earlier["request"]["kind"],
        method=request["inversion"]["method"],
        hessian_regularization=damping_of(earlier),
        rows=before.get("rows", "right-hand sides" if request["kind"] == "ihvp" else "test rows"),
        statuses=info.get("statuses") or before.get("statuses"),
    )


def job_with_factors(parts: Parts, namespace: str, id: str) -> Document:
    """The record. Raises NotFound, NotReady, NotStored, ResultExpired, naming the field.

    Gradients stand for factors of the identity without λ: (I + 0)⁻¹ g is g.
    """
    job = job_with_vectors(parts, namespace, id, "/factors", (FACTORS, GRADIENTS))
    if job["request"]["kind"] != "gradients":
        return job
    solved = {
        "test": job["request"]["train"],
        "hessian_on": None,
        "hessian_regularization": 0.0,
        "curvature": Curvature(structure="identity").model_dump(mode="json"),
        "inversion": Direct().model_dump(mode="json"),
    }
    return {
        **job,
        "request": job["request"] | solved,
        "test_id": job["train_id"],
        "hessian_id": None,
    }


def _factors_fit(earlier: Document, inputs: Inputs, matched: Sequence[ColumnMatch]) -> None:
    id, size = earlier["id"], earlier["result"]["factor_shape"][-1]
    if inputs.model.parameter_count not in (None, size):
        words = f"job {id} has {size} numbers a row, and the model selects {inputs.model.parameter_count}"
        way = "take gradients of all of its selected parameters, without 'parameters'"
        raise InvalidRequest.field("/factors", f"{words}; {way}", id)
    if earlier["model_id"] != inputs.model.id:
        words = f"the factors of {id} are of model {earlier['model_id']}, and this job's is {inputs.model.id}"
        raise InvalidRequest.field("/factors", f"{words}; take the same model, or solve anew", id)
    if inputs.test is not None and earlier["test_id"] is None:
        count, chosen = earlier["result"]["factor_shape"][-2], len(inputs.test.rows)
        if chosen != count:
            words = (
                f"the factors of {id} are solutions for {count} right-hand sides of its own, and 'test' chooses "
                f"{chosen} rows"
            )
            raise InvalidRequest.field(
                "/test/rows",
                f"{words}; choose {count}, one to stand for each: its label is shown beside the result, and no "
                "number comes from it",
                earlier["id"],
            )
    elif inputs.test is not None and not _same_rows(
        earlier["test_id"], earlier["request"]["test"]["rows"], inputs.test
    ):
        rows = earlier["request"]["test"]["rows"]
        words = f"the factors of {id} are of rows {rows or 'all'} of dataset {earlier['test_id']}"
        raise InvalidRequest.field("/factors", f"{words}; give these as 'test', or solve anew", id)
    arranged = {match["dataset"]: _arrangement(match) for match in earlier.get("matched", ())}
    for match in matched:
        own = _arrangement(match.model_dump(mode="json"))
        if arranged.get(match.dataset, own) != own:
            words = (
                f"the factors of {id} take the columns of dataset {match.dataset} in another order"
            )
            raise InvalidRequest.field(
                "/factors", f"{words}; give the same 'columns', or solve anew", id
            )


def _arrangement(match: Document) -> list[object]:
    return [match[field] for field in ("inputs", "targets", "features")]


def _same_rows(dataset: str, rows: Any, chosen: Chosen) -> bool:
    if dataset != chosen.dataset.id:
        return False
    before = parse_rows(rows, chosen.dataset.rows or 0)
    return before == chosen.rows or list(before) == list(chosen.rows)
