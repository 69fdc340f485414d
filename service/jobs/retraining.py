"""Preparing a job that trains a model anew."""

from __future__ import annotations

from service.datasets.names import RowNames
from service.jobs.estimate import Counted, trained
from service.jobs.prepared import Prepared, chosen, own_precision, queued, ready_model, refuse_long
from service.jobs.validation.compatibility import fitted
from service.jobs.validation.inputs import Inputs
from service.jobs.validation.subset import (
    chosen_rows,
    given_arrays,
    refuse_weightless,
    row_labels,
    row_weights,
)
from service.parts import Parts
from upweight.errors import InvalidRequest
from upweight.schema import (
    DatasetRecord,
    ModelRecord,
    Recipe,
    RetrainJob,
    written_rows,
)
from upweight.schema.any_job import Dropped
from upweight.schema.model import NEEDS_INITIAL

_TIMES = 5  # the parameters: the weights, and twice, while one replaces the other, what a training goes on from


def prepared(parts: Parts, namespace: str, job: RetrainJob) -> Prepared:
    """Raises InvalidRequest, NotFound, NotReady, each naming its field."""
    model = ready_model(parts, namespace, job.model)
    recipe = recipe_of(model, job.recipe)
    job = job.model_copy(
        update={"precision": job.precision or own_precision(model), "recipe": recipe}
    )
    train = chosen(parts, namespace, job.train, "/train")
    test = chosen(parts, namespace, job.test, "/test") if job.test is not None else None
    matched = fitted(Inputs(model, train, test, train), job.columns)
    left_out = named_rows(parts, namespace, job.drop, train.dataset, "/drop")
    job = job.model_copy(update={"drop": left_out})
    given, total = given_arrays(parts.objects, namespace, job.given), train.dataset.rows or 0
    assert job.drop is None or isinstance(job.drop, str)
    written = job.train.rows is not None
    rows = chosen_rows(train.rows, job.drop, given, total, written=written)
    refuse_weightless(row_weights(given, total), rows)
    row_labels(given, total)
    refuse_long(parts, job)
    record = queued(job, model, train, matched)
    record.test_id = None if test is None else test.dataset.id
    size = _TIMES * weights_bytes(model, job.precision)
    found = Counted(job, Inputs(model, train, test, train), 0)
    record.estimate = trained(parts, namespace, found, recipe, [(1, len(rows))], size)
    return Prepared(record, size)


def named_rows(
    parts: Parts, namespace: str, given: Dropped | None, dataset: DatasetRecord, pointer: str
) -> str | None:
    """Row numbers as text: of ids, where there are some. Raises InvalidRequest."""
    if given is None or isinstance(given, str):
        return given
    if dataset.ids is None and all(isinstance(each, int) for each in given):
        return ",".join(map(str, given)) or None
    names = RowNames.of(parts, namespace, dataset, given)
    rows = {names.id_or_number(name, f"{pointer}/{at}") for at, name in enumerate(given)}
    try:
        return written_rows(sorted(rows)) or None
    except ValueError as error:
        words = f"{error}; derive a dataset without them, and use that"
        raise InvalidRequest.field(pointer, words, None) from None


def recipe_of(model: ModelRecord, given: Recipe | None) -> Recipe:
    """The recipe of a job, or its model's. Raises InvalidRequest where there is none, or it can't begin."""
    recipe = given or model.recipe
    if recipe is None:
        raise InvalidRequest.field(
            "/recipe",
            f"model {model.name!r} was registered without a recipe, so how to train it is not known: register it "
            "with recipe={'optimizer': …, 'lr': …, 'epochs': …}, or give the job one",
            None,
        )
    if recipe.start == "initial" and model.initial is None:
        raise InvalidRequest.field("/recipe/start", NEEDS_INITIAL, recipe.start)
    return recipe


def weights_bytes(model: ModelRecord, precision: str | None) -> int:
    """Of one model's selected parameters, as a retraining or a bank stores them."""
    return (model.parameter_count or 0) * (8 if precision == "float64" else 4)
