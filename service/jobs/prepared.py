"""What preparing a job comes to, whatever its kind, and what kinds use for it: records by name, ready to be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from service.jobs.validation.inputs import Chosen
from service.lifecycle.states import now
from service.parts import Parts
from service.registry import require_ready, resolve
from service.storage.keys import Document, Kind, new_id
from upweight.errors import InvalidRequest, NotFound
from upweight.schema import (
    ColumnMatch,
    DatasetRecord,
    JobBase,
    JobRecord,
    JobState,
    ModelRecord,
    OwnPrecision,
    Selection,
    parse_rows,
)


@dataclass(frozen=True)
class Prepared:
    """A job that can be queued: its record, and what its result will take, as far as that is known."""

    record: JobRecord  # with what it will take, as far as that is counted
    result_bytes: int


# Looks at all that can be known of a job of its kind before a worker has it. Raises UpweightError.
Prepare = Callable[[Parts, str, Any], Prepared]


def queued(
    job: JobBase, model: ModelRecord, train: Chosen, matched: list[ColumnMatch]
) -> JobRecord:
    """The record of a new job; its kind adds what else it has, such as test rows."""
    return JobRecord(
        id=new_id("job"),
        state=JobState.QUEUED,
        request=job,
        labels=job.labels,
        name=job.name,
        note=job.note,
        model_id=model.id,
        train_id=train.dataset.id,
        matched=matched,
        created_at=now(),
    )


def refuse_long(parts: Parts, job: JobBase) -> None:
    """Raises InvalidRequest for more time than the operator gives."""
    limit = parts.settings.job_seconds
    if job.timeout_s is not None and job.timeout_s > limit:
        raise InvalidRequest.field(
            "/timeout_s", f"this service lets a job run for {limit:.0f} s at most", job.timeout_s
        )


def ready_model(parts: Parts, namespace: str, reference: str) -> ModelRecord:
    """The model of a job. Raises NotFound, NotReady."""
    return ModelRecord.model_validate(ready(parts, "model", namespace, reference, "/model"))


def chosen(parts: Parts, namespace: str, selection: Selection, pointer: str) -> Chosen:
    """A dataset and its rows that are meant. Raises NotFound, NotReady, InvalidRequest."""
    found = ready(parts, "dataset", namespace, selection.dataset, f"{pointer}/dataset")
    dataset = DatasetRecord.model_validate(found)
    try:
        rows = parse_rows(selection.rows, dataset.rows or 0)
    except ValueError as error:
        raise InvalidRequest.field(f"{pointer}/rows", str(error), selection.rows) from None
    if len(rows) == 0:
        raise InvalidRequest.field(
            f"{pointer}/rows",
            f"chooses no row of {dataset.name!r}, which has {dataset.rows}; write '0:100', or leave it out for all",
            selection.rows,
        )
    return Chosen(pointer, dataset, rows)


def ready(parts: Parts, kind: Kind, namespace: str, reference: str, pointer: str) -> Document:
    """A model or dataset that has been checked. Raises NotFound, NotReady, naming the field."""
    try:
        found = resolve(parts, kind, namespace, reference, usable=True)
    except NotFound as missing:
        raise NotFound.field(pointer, missing.detail, reference) from None
    require_ready(kind, found, pointer, reference)
    return found


def own_precision(model: ModelRecord) -> OwnPrecision:
    """What a job with this model computes in that does not say."""
    if model.precision is not None:
        return model.precision
    return "float64" if model.dtype == "float64" else "float32"  # checked by an earlier version
