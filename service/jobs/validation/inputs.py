"""The records that a job names: found, ready, and with the rows it chooses."""

from __future__ import annotations

from dataclasses import dataclass

from service.parts import Parts
from service.registry import resolve
from service.storage.keys import Kind
from upweight.errors import InvalidRequest, NotFound, NotReady
from upweight.schema import (
    CheckState,
    DatasetRecord,
    JobRequest,
    ModelRecord,
    Rows,
    Selection,
    parse_rows,
)


@dataclass(frozen=True)
class Chosen:
    """A dataset, and its rows that are meant."""

    pointer: str
    dataset: DatasetRecord
    rows: Rows


@dataclass(frozen=True)
class Inputs:
    """All that a job is computed from."""

    model: ModelRecord
    train: Chosen
    test: Chosen | None
    hessian: Chosen
    given_rows: int = 0  # factors of an earlier job that no test rows stand for

    @property
    def test_count(self) -> int:
        """Rows of the result, or of the factors; 0 for self-influences."""
        return len(self.test.rows) if self.test is not None else self.given_rows

    @property
    def chosen(self) -> list[Chosen]:
        """The datasets, each under the field that names it."""
        return [one for one in (self.train, self.test, self.hessian) if one is not None]


def find_inputs(parts: Parts, namespace: str, job: JobRequest) -> Inputs:
    """Raises NotFound, NotReady, InvalidRequest, each naming its field."""
    model = ModelRecord.model_validate(_ready(parts, "model", namespace, job.model, "/model"))
    train = _chosen(parts, namespace, job.train, "/train")
    test = getattr(job, "test", None)
    # Over all rows, whichever of them influence is asked for.
    whole = Chosen("/train", train.dataset, parse_rows(None, train.dataset.rows or 0))
    return Inputs(
        model=model,
        train=train,
        test=_chosen(parts, namespace, test, "/test") if test is not None else None,
        hessian=_chosen(parts, namespace, job.hessian_on, "/hessian_on")
        if job.hessian_on is not None
        else whole,
    )


def _chosen(parts: Parts, namespace: str, selection: Selection, pointer: str) -> Chosen:
    found = _ready(parts, "dataset", namespace, selection.dataset, f"{pointer}/dataset")
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


def _ready(
    parts: Parts, kind: Kind, namespace: str, reference: str, pointer: str
) -> dict[str, object]:
    try:
        found = resolve(parts, kind, namespace, reference)
    except NotFound as missing:
        raise NotFound.field(pointer, missing.detail, reference) from None
    if found["state"] == CheckState.READY:
        return found
    name = f"{kind} {found['name']}@{found['version']}"
    if found["state"] == CheckState.CHECKING:
        error = NotReady.field(
            pointer,
            f"{name} is still being checked; GET /v1/{kind}s/{found['id']}?wait=60 holds until it is",
            reference,
        )
        error.retry_after = 1
        raise error
    reason = (found.get("problem") or {}).get("detail", "its check failed")
    raise NotReady.field(pointer, f"{name} was rejected: {reason}", reference)
