"""The computations: from what the caller has, to a job's record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel

from upweight.client.blobs import put_array
from upweight.client.jobs import create
from upweight.client.request import Choice, fields_of, inversion, reference, selection
from upweight.errors import InvalidRequest
from upweight.http.flow import Flow
from upweight.http.polling import until_ended, waited_for
from upweight.progress import Bars
from upweight.results.rows import RowChoice
from upweight.schema import JobRecord, ModelRecord, Relative, Trained
from upweight.schema.inversion import METHODS

Model = str | ModelRecord
# λ; what has a `tolist`, as arrays of numpy's do, is that list. None is "auto".
Damping = (
    float
    | Literal["auto"]
    | Relative
    | Trained
    | Mapping[str, Any]
    | Sequence[float | Relative | Mapping[str, Any]]
    | None
)
# Fields of the job itself; any other keyword is the inversion method's, and so is one that both have.
JOB_OPTIONS = frozenset(
    {
        "batch_size",
        "blocks",
        "columns",
        "labels",
        "precision",
        "priority",
        "reuse",
        "seed",
        "timeout_s",
        "webhook",
    }
)
# Arrays, or digests of blobs with a tensor of that name.
GUESSES = tuple(each.guess_field for each in METHODS.values() if each.guess_field is not None)


@dataclass(frozen=True)
class Computation:
    """What all four have in common."""

    kind: str
    model: Model
    train: Choice
    method: Any  # None: that of `factors` which are taken, else direct
    regularization: Damping
    parameters: Mapping[str, Any]
    perturbation: float | None = None  # another name of the regularization
    train_rows: RowChoice | None = None
    hessian_on: Choice | None = None
    wait: bool = True
    timeout: float | None = None
    progress: bool | None = None
    solved: bool = False  # an earlier job has

    def run(self, bars: Bars, hold: float, **own: Any) -> Flow[JobRecord]:
        """Creates the job, and waits until it has succeeded if that is wanted."""
        fields = yield from self._fields(bars)
        record = yield from create({**fields, **{k: v for k, v in own.items() if v is not None}})
        if not self.wait:
            return record
        record = yield from until_ended(
            record.id, bars, record=record, timeout=self.timeout, progress=self.progress, hold=hold
        )
        return waited_for(record)

    def _fields(self, bars: Bars) -> Flow[dict[str, Any]]:
        taken = self.method is None and self.solved
        chosen = "direct" if self.method is None and not taken else self.method
        of_job = JOB_OPTIONS.difference(fields_of(chosen))
        options = {k: v for k, v in self.parameters.items() if k in of_job}
        method = {k: v for k, v in self.parameters.items() if k not in of_job}
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
            "train": selection(self.train, self.train_rows),
            **({} if taken else {"inversion": inversion(chosen, method)}),
            **options,
        }
        damping = plain_damping(self._lambda())
        if damping is not None:
            fields["hessian_regularization"] = damping
        if self.hessian_on is not None:
            fields["hessian_on"] = selection(self.hessian_on)
        return fields

    def _lambda(self) -> Damping:
        given = "auto" if self.regularization is None else self.regularization
        if self.perturbation is None:
            # Factors of an earlier job have the λ that they were solved with.
            return None if self.solved and given == "auto" else given
        if isinstance(given, float | int) and given not in (0.0, self.perturbation):
            raise InvalidRequest(
                "hessian_perturbation and hessian_regularization mean the same; give one of them"
            )
        return self.perturbation


def plain_damping(given: Any) -> Any:
    """λ as JSON has it."""
    if isinstance(given, BaseModel):
        return given.model_dump(mode="json")
    plain = given.tolist() if hasattr(given, "tolist") else given
    return list(map(plain_damping, plain)) if isinstance(plain, list | tuple) else plain


def hessian_rows(train: Choice, input_data: Choice | None, given: Choice | None) -> Choice | None:
    """What the Hessian is over: with `input_data`, `train` is that and no more."""
    if input_data is None:
        return given
    if given is not None:
        raise InvalidRequest("with input_data the Hessian is over 'train'; leave out 'hessian_on'")
    return train


def influences(
    bars: Bars,
    hold: float,
    computation: Computation,
    *,
    test: Choice | None,
    test_rows: RowChoice | None,
    influence_type: Any,
    perturb_at: str | None,
    perturb_input: str | None,
    factors: Any,
    keep: Mapping[str, Any] | None,
) -> Flow[JobRecord]:
    """∇L(z_test)ᵀ (H + λI)⁻¹ ∇L(z_train)."""
    computation = replace(computation, solved=factors is not None)
    if test is None and test_rows is not None:
        raise InvalidRequest.field(
            "/test",
            "'test_rows' picks rows of 'test': give both, or neither where there are 'factors'",
            None,
        )
    return (
        yield from computation.run(
            bars,
            hold,
            test=None if test is None else selection(test, test_rows),
            influence_type=getattr(influence_type, "value", influence_type),
            perturb_at=perturb_at,
            perturb_input=perturb_input,
            factors=None if factors is None else reference(getattr(factors, "job", factors)),
            keep=dict(keep) if keep is not None else None,
        )
    )


def solutions(bars: Bars, hold: float, computation: Computation, b: Any) -> Flow[JobRecord]:
    """x with (H + λI) x = b."""
    rhs = yield from put_array("rhs", b, bars)
    return (yield from computation.run(bars, hold, rhs=rhs))
