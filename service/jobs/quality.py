"""Preparing a job that holds results against retraining: they must be of one model, with the same rows."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest

from service.jobs.counts import Work
from service.jobs.estimate import Counted, trained
from service.jobs.prepared import Prepared, chosen, own_precision, queued, ready_model, refuse_long
from service.jobs.retraining import named_rows, recipe_of, weights_bytes
from service.jobs.validation.compatibility import fitted
from service.jobs.validation.inputs import Chosen, Inputs
from service.parts import Parts
from service.registry import find_job
from upweight.errors import InvalidRequest, NotFound, UpweightError
from upweight.schema import (
    DatasetRecord,
    InfluencesJob,
    JobRecord,
    JobState,
    ModelRecord,
    QualityJob,
    Rows,
    Selection,
    SelfInfluencesJob,
    parse_rows,
)

REPORT_BYTES = 1 << 20
FORWARD = 3.0  # a gradient is so many passes forward


def prepared(parts: Parts, namespace: str, job: QualityJob) -> Prepared:
    """Raises InvalidRequest, NotFound, NotReady, each naming its field."""
    refuse_long(parts, job)
    model = ready_model(parts, namespace, job.model)
    judged = [
        _judged(parts, namespace, id, number, job, model) for number, id in enumerate(job.results)
    ]
    train = _same_rows(parts, namespace, job, judged, "train")
    test = _same_rows(parts, namespace, job, judged, "test")
    assert train is not None  # every job has it
    wrong = named_rows(parts, namespace, job.wrong, train.dataset, "/wrong")
    if job.wrong is not None and wrong is None:
        raise InvalidRequest.field(
            "/wrong", "names no row; name those whose labels are wrong", None
        )
    job = job.model_copy(update={"wrong": wrong})
    _refuse_plan(job, train, test)
    job = job.model_copy(
        update={
            "precision": job.precision or own_precision(model),
            "recipe": recipe_of(model, job.recipe) if job.needs_recipe else None,
            "test": job.test
            if test is None
            else Selection(dataset=test.dataset.id, rows=_text(judged, "test")),
        }
    )
    inputs = Inputs(model=model, train=train, test=test, hessian=train)
    record = queued(job, model, train, fitted(inputs, job.columns))
    record.test_id = None if test is None else test.dataset.id
    trainings = _trainings(job, len(train.rows))
    bank = sum(models for models, _ in trainings) * weights_bytes(model, job.precision)
    size = REPORT_BYTES + bank
    looked_at = len(train.rows) + (0 if test is None else len(test.rows))
    # Baselines are of gradients; losses of all test rows are taken after each training.
    forward = sum(models for models, _ in trainings) * (0 if test is None else len(test.rows))
    beside = Work(gradients=(looked_at if job.baselines else 0) + forward / FORWARD)
    found = Counted(job, inputs, 0)
    record.estimate = trained(parts, namespace, found, job.recipe, trainings, size, beside)
    return Prepared(record, size)


def _judged(
    parts: Parts, namespace: str, id: str, number: int, job: QualityJob, model: ModelRecord
) -> JobRecord:
    """A job that can be judged. Raises InvalidRequest, which says what would make it one."""
    pointer = f"/results/{number}"
    try:
        record = JobRecord.model_validate(find_job(parts, namespace, id))
    except NotFound as missing:
        raise NotFound.field(pointer, missing.detail, id) from None
    request = record.request

    def refused(why: str) -> UpweightError:
        return InvalidRequest.field(pointer, f"job {id} {why}", id)

    if record.state is not JobState.SUCCEEDED or record.result is None or record.expired_at:
        state = "has expired" if record.expired_at else f"is {record.state}"
        raise refused(f"{state}; only a result that is stored can be judged")
    if isinstance(request, SelfInfluencesJob):
        if set(job.measures) != {"mislabel"}:
            raise refused("has self-influences, which only measure 'mislabel' can judge")
    elif not isinstance(request, InfluencesJob) or request.influence_type != "up":
        raise refused(
            f"is of kind {request.kind!r}; judge influences (influence_type 'up') or self-influences"
        )
    else:
        _refuse_other_scores(record, request, refused)
    if record.model_id != model.id and _digest(parts, namespace, record) != model.digest:
        raise refused(
            f"is of model {record.model_id}, not of {model.name}@{model.version} ({model.id}); judge results of one "
            "model at a time"
        )
    return record


def _refuse_other_scores(
    record: JobRecord, request: InfluencesJob, refused: Callable[[str], UpweightError]
) -> None:
    """Raises InvalidRequest where there is no matrix, or none of influences on the loss of test rows."""
    if request.tabulates:
        raise refused(
            "has groups of rows, and single rows are judged; judge a job without 'aggregate'"
        )
    if request.measured.name != "loss":
        raise refused(
            f"explains {request.measured.label}, and a retraining is judged by its test loss; judge a job with "
            "measurement 'loss'"
        )
    if record.result is None or "matrix" not in record.result.stored:
        raise refused("did not keep its matrix; start it again with keep.matrix")
    if record.factors_of is not None and record.factors_of.rows != "test rows":
        raise refused(
            "is for right-hand sides of its own, which no test row's loss stands for; judge a job "
            "with test rows"
        )


def _digest(parts: Parts, namespace: str, record: JobRecord) -> str:
    return str(parts.records.get("model", namespace, record.model_id)["digest"])


def _same_rows(
    parts: Parts, namespace: str, job: QualityJob, judged: list[JobRecord], side: str
) -> Chosen | None:
    """The rows that all results have, and that the job asks for if it does. Raises InvalidRequest, naming which."""
    found: Chosen | None = None
    for number, record in enumerate(judged):
        own = _chosen(parts, namespace, record, side, f"/results/{number}")
        if own is None:
            continue
        if found is None:
            found = own
        elif own.dataset.id != found.dataset.id or not _alike(own.rows, found.rows):
            raise InvalidRequest.field(
                f"/results/{number}",
                f"its {side} rows are not those of job {judged[0].id}: {_rows_in_words(record, own, side)}, and not "
                f"{_rows_in_words(judged[0], found, side)}; a bank of retrained models is of one choice of rows, so "
                "judge them in a job of their own",
                record.id,
            )
    asked: Selection | None = getattr(job, side)
    if asked is None:
        return found
    wanted = chosen(parts, namespace, asked, f"/{side}")
    if (
        found is None
        or wanted.dataset.id != found.dataset.id
        or not _alike(wanted.rows, found.rows)
    ):
        there = "none" if found is None else _rows_in_words(judged[0], found, side)
        raise InvalidRequest.field(
            f"/{side}",
            f"these are not the {side} rows of the results, which have {there}",
            asked.dataset,
        )
    return found


def _chosen(
    parts: Parts, namespace: str, record: JobRecord, side: str, pointer: str
) -> Chosen | None:
    id, selection = getattr(record, f"{side}_id"), getattr(record.request, side, None)
    if id is None or selection is None:
        return None
    dataset = DatasetRecord.model_validate(parts.records.get("dataset", namespace, id))
    return Chosen(pointer, dataset, parse_rows(selection.rows, dataset.rows or 0))


def _alike(one: Rows, other: Rows) -> bool:
    if one.parts == other.parts:
        return True
    return len(one) == len(other) and all(a == b for a, b in zip_longest(one, other))


def _text(judged: list[JobRecord], side: str) -> str | None:
    selections = (getattr(record.request, side, None) for record in judged)
    first = next((each for each in selections if each is not None), None)
    return None if first is None else first.rows


def _rows_in_words(record: JobRecord, chosen: Chosen, side: str) -> str:
    selection = getattr(record.request, side)
    return f"{selection.rows or 'all'} of {chosen.dataset.name!r}"


def _refuse_plan(job: QualityJob, train: Chosen, test: Chosen | None) -> None:
    total = len(train.rows)
    if job.retrains and len(set(train.rows)) < total:
        raise InvalidRequest.field(
            "/train/rows", "a row is chosen twice, and a subset has it once or not at all", None
        )
    size = round(job.share * total)
    if "lds" in job.measures and not 1 <= size < total:
        raise InvalidRequest.field(
            "/share",
            f"{job.share:g} of {total} training rows is {'none' if size < 1 else 'all'} of them; a subset needs some, "
            "and must leave some out",
            job.share,
        )
    if "loo" in job.measures and total < 3:
        raise InvalidRequest.field("/measures", "'loo' needs 3 training rows or more", "loo")
    if {"brittleness", "tail_patch"} & set(job.measures) and 2 * job.k > total:
        raise InvalidRequest.field(
            "/k", f"of {total} training rows at most half, {total // 2}, can be removed", job.k
        )
    if job.wrong is not None:
        _refuse_wrong(job, train)
    if test is None and set(job.measures) != {"mislabel"}:
        raise InvalidRequest.field("/results", "none of them has test rows", None)


def _refuse_wrong(job: QualityJob, train: Chosen) -> None:
    assert isinstance(job.wrong, str)
    try:
        wrong = set(parse_rows(job.wrong, train.dataset.rows or 0))
    except ValueError as error:
        raise InvalidRequest.field("/wrong", str(error), job.wrong) from None
    among = wrong.intersection(train.rows)
    if not among or len(among) == len(set(train.rows)):
        what = "none" if not among else "each"
        raise InvalidRequest.field(
            "/wrong",
            f"{what} of the training rows of the results is among them; name rows of {train.dataset.name!r} that are "
            "wrong, and leave some that are right",
            job.wrong,
        )


def _trainings(job: QualityJob, rows: int) -> list[tuple[int, int]]:
    """How many models are trained at most, and on how many rows each."""
    trained: list[tuple[int, int]] = []
    if "lds" in job.measures:
        trained.append((job.subsets * job.repeats, round(job.share * rows)))
    if "loo" in job.measures:
        trained.append((min(job.left_out, rows), rows - 1))
    if "brittleness" in job.measures:
        trained.append(((len(job.results) + 1) * job.queries, rows - job.k))
    return trained
