"""The computations: from what the caller has, to a job's record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from pydantic import BaseModel

from upweight.client.blobs import put_array
from upweight.client.jobs import create
from upweight.client.options import (
    ComputationOptions,
    Damping,
    JobOptions,
    Options,
    VectorsOptions,
    WaitOptions,
)
from upweight.client.request import (
    Choice,
    fields_of,
    inversion,
    named_ids,
    reference,
    selection,
    written_out,
)
from upweight.errors import InvalidRequest
from upweight.http.flow import Flow
from upweight.http.polling import until_ended, waited_for
from upweight.progress import Bars
from upweight.results.rows import RowChoice, rows_text
from upweight.schema import Aggregate, DatasetRecord, JobRecord, ModelRecord, ScoresBy
from upweight.schema.inversion import METHODS

Model = str | ModelRecord
# Fields of the job itself; any other keyword is the inversion method's, and so is one that both have.
JOB_OPTIONS = frozenset(JobOptions.__annotations__)
OWN_OPTIONS = frozenset(ComputationOptions.__annotations__)
# Arrays, or digests of blobs with a tensor of that name.
GUESSES = tuple(each.guess_field for each in METHODS.values() if each.guess_field is not None)


@dataclass(frozen=True)
class Computation:
    """What all four have in common."""

    kind: str
    model: Model
    train: Choice
    method: Any  # None: that of `factors` which are taken, else direct
    options: Options
    train_rows: RowChoice | None = None
    train_where: Mapping[str, Any] | None = None
    solved: bool = False  # an earlier job has

    def run(self, bars: Bars, hold: float, **own: Any) -> Flow[JobRecord]:
        """Creates the job, and waits until it has succeeded if that is wanted."""
        fields = yield from self._fields(bars)
        dry_run = self.options.get("dry_run", False)
        given = {**fields, **{k: v for k, v in own.items() if v is not None}}
        record = yield from create(given, dry_run=dry_run)
        return (yield from _waited(record, self.options, bars, hold))

    def _fields(self, bars: Bars) -> Flow[dict[str, Any]]:
        taken = self.method is None and self.solved
        chosen, curvature = written_out(
            "direct" if self.method is None and not taken else self.method,
            self.options.get("curvature"),
        )
        of_job = JOB_OPTIONS.difference(fields_of(chosen))
        given: dict[str, Any] = {k: v for k, v in self.options.items() if k not in OWN_OPTIONS}
        options = {k: v for k, v in given.items() if k in of_job}
        method = {k: v for k, v in given.items() if k not in of_job}
        if curvature is not None:
            options["curvature"] = curvature
        if taken and method:
            name = next(iter(method))
            raise InvalidRequest.field(
                f"/inversion/{name}",
                "is of an inversion method, and factors of an earlier job are solved for; leave it out",
                method[name],
            )
        for guess in GUESSES:
            if guess in method and not isinstance(method[guess], str | None):
                inversion(chosen, {k: v for k, v in method.items() if k not in GUESSES})
                method[guess] = yield from put_array(guess, method[guess], bars)
        fields = {
            "kind": self.kind,
            "model": reference(self.model),
            "train": selection(self.train, self.train_rows, self.train_where),
            **({} if taken else {"inversion": inversion(chosen, method)}),
            **options,
        }
        if isinstance(options.get("measurement"), BaseModel):
            options["measurement"] = options["measurement"].model_dump(mode="json")
        damping = plain_damping(self._lambda())
        if damping is not None:
            fields["hessian_regularization"] = damping
        hessian_on = self.options.get("hessian_on")
        if hessian_on is not None:
            fields["hessian_on"] = selection(hessian_on)
        return fields

    def _lambda(self) -> Damping:
        regularization = self.options.get("hessian_regularization")
        perturbation = self.options.get("hessian_perturbation")  # another name of it
        given = "auto" if regularization is None else regularization
        if perturbation is None:
            # Factors of an earlier job have the λ that they were solved with.
            return None if self.solved and given == "auto" else given
        if isinstance(given, float | int) and given not in (0.0, perturbation):
            raise InvalidRequest(
                "hessian_perturbation and hessian_regularization mean the same; give one of them"
            )
        return perturbation


def plain(given: BaseModel | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A part of a request as JSON has it."""
    if isinstance(given, BaseModel):
        return given.model_dump(mode="json", exclude_none=True)
    return None if given is None else dict(given)


def row_set(rows: RowChoice) -> str | list[Any]:
    """Rows of one set: numbers as text; a list of texts, or `{"ids": [...]}`, as ids."""
    if isinstance(rows, Mapping):
        return list(rows["ids"])
    ids = named_ids(rows)
    return rows_text(rows) if ids is None else list(ids)


def plain_damping(given: Any) -> Any:
    """λ as JSON has it."""
    if isinstance(given, BaseModel):
        return given.model_dump(mode="json")
    plain = given.tolist() if hasattr(given, "tolist") else given
    return list(map(plain_damping, plain)) if isinstance(plain, list | tuple) else plain


def influences(
    bars: Bars,
    hold: float,
    model: Model,
    train: Choice,
    test: Choice | None,
    method: Any,
    *,
    input_data: Choice | None = None,
    influence_type: Any = "up",
    train_rows: RowChoice | None = None,
    test_rows: RowChoice | None = None,
    train_where: Mapping[str, Any] | None = None,
    test_where: Mapping[str, Any] | None = None,
    perturb_at: str | None = None,
    perturb_input: str | None = None,
    factors: Any = None,
    keep: Mapping[str, Any] | None = None,
    aggregate: Aggregate | Mapping[str, Any] | None = None,
    groups: Sequence[RowChoice] | None = None,
    rescale: bool | None = None,
    scores_by: ScoresBy | None = None,
    **options: Unpack[Options],
) -> Flow[JobRecord]:
    """∇L(z_test)ᵀ (H + λI)⁻¹ ∇L(z_train). With `input_data` its rows are the training rows, and H is over `train`."""
    if input_data is not None:
        if options.get("hessian_on") is not None:
            raise InvalidRequest(
                "with input_data the Hessian is over 'train'; leave out 'hessian_on'"
            )
        options["hessian_on"], train = train, input_data
    if test is None and (test_rows is not None or test_where is not None):
        given = "test_where" if test_rows is None else "test_rows"
        raise InvalidRequest.field(
            "/test",
            f"'{given}' picks rows of 'test': give both, or neither where there are 'factors'",
            None,
        )
    solved = factors is not None
    computation = Computation(
        "influences", model, train, method, options, train_rows, train_where, solved
    )
    return (
        yield from computation.run(
            bars,
            hold,
            test=None if test is None else selection(test, test_rows, test_where),
            influence_type=getattr(influence_type, "value", influence_type),
            perturb_at=perturb_at,
            perturb_input=perturb_input,
            factors=None if factors is None else reference(getattr(factors, "job", factors)),
            keep=dict(keep) if keep is not None else None,
            aggregate=plain(aggregate),
            groups=None if groups is None else [row_set(each) for each in groups],
            rescale=rescale,
            scores_by=scores_by,
        )
    )


def factors(
    bars: Bars,
    hold: float,
    model: Model,
    train: Choice,
    test: Choice,
    method: Any,
    test_rows: RowChoice | None,
    options: Options,
) -> Flow[JobRecord]:
    """(H + λI)⁻¹ ∇L(z_test)."""
    computation = Computation("factors", model, train, method, options)
    return (yield from computation.run(bars, hold, test=selection(test, test_rows)))


def solutions(
    bars: Bars, hold: float, method: Any, model: Model, train: Choice, b: Any, options: Options
) -> Flow[JobRecord]:
    """x with (H + λI) x = b."""
    rhs = yield from _vectors("rhs", b, bars)
    computation = Computation("ihvp", model, train, method, options)
    return (yield from computation.run(bars, hold, rhs=rhs))


def gradients(
    bars: Bars,
    hold: float,
    model: Model,
    data: Choice,
    rows: RowChoice | None,
    where: Mapping[str, Any] | None,
    parameters: str | Sequence[str] | None,
    options: VectorsOptions,
) -> Flow[JobRecord]:
    """∇m(z) of each row."""
    fields = {
        "kind": "gradients",
        "model": reference(model),
        "train": selection(data, rows, where),
        "parameters": [parameters] if isinstance(parameters, str) else parameters,
    }
    return (yield from _run_vectors(bars, hold, fields, options))


def products(
    bars: Bars,
    hold: float,
    model: Model,
    train: Choice,
    vectors: Any,
    rows: RowChoice | None,
    damping: float,
    options: VectorsOptions,
) -> Flow[JobRecord]:
    """(C + λI) v of each vector."""
    given = yield from _vectors("vectors", vectors, bars)
    fields = {
        "kind": "hvp",
        "model": reference(model),
        "train": selection(train, rows),
        "vectors": given,
        "hessian_regularization": damping,
    }
    return (yield from _run_vectors(bars, hold, fields, options))


def _vectors(name: str, given: Any, bars: Bars) -> Flow[str]:
    """What a field of vectors has: the digest of an array that is sent, or the job of a result, or a dataset."""
    job = getattr(given, "job", given)
    if isinstance(job, str):
        return job
    if isinstance(job, JobRecord | DatasetRecord):
        return job.id
    return (yield from put_array(name, given, bars))


def _run_vectors(
    bars: Bars, hold: float, fields: Mapping[str, Any], options: VectorsOptions
) -> Flow[JobRecord]:
    given: dict[str, Any] = {k: v for k, v in options.items() if k not in OWN_OPTIONS}
    for name in ("measurement", "curvature"):
        if isinstance(given.get(name), BaseModel):
            given[name] = given[name].model_dump(mode="json")
    sent = {k: v for k, v in {**fields, **given}.items() if v is not None}
    record = yield from create(sent, dry_run=options.get("dry_run", False))
    return (yield from _waited(record, options, bars, hold))


def _waited(record: JobRecord, options: WaitOptions, bars: Bars, hold: float) -> Flow[JobRecord]:
    """Once it has succeeded, if that is wanted."""
    if options.get("dry_run", False) or not options.get("wait", True):
        return record
    record = yield from until_ended(
        record.id, bars, record=record, timeout=options.get("timeout"),
        progress=options.get("progress"), hold=hold,
    )  # fmt: skip
    return waited_for(record)


def self_influences(
    bars: Bars,
    hold: float,
    model: Model,
    train: Choice,
    method: Any,
    train_rows: RowChoice | None,
    options: Options,
) -> Flow[JobRecord]:
    """The influence of each training row on itself."""
    computation = Computation("self_influences", model, train, method, options, train_rows)
    return (yield from computation.run(bars, hold))
