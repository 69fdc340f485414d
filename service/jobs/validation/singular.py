"""λ = 0 where that is known to fail: a method that factorises H, and an H that is singular whatever the numbers are."""

from __future__ import annotations

from service.jobs.validation.inputs import Inputs
from upweight.errors import InvalidRequest
from upweight.schema import AttributionJob, Curvature, ModelRecord
from upweight.schema.damping import numbers

_OF_SOFTMAX = ("cross_entropy", "nll")
_SHOWN = 3  # names
_DAMPED = "give λ, such as the weight decay of training or 0.01"


def refuse_singular(job: AttributionJob, inputs: Inputs) -> None:
    """Raises InvalidRequest; a λ that was left out is 0."""
    factorised = job.building
    if (
        0.0 not in numbers(job.hessian_regularization)
        or factorised is None
        or factorised.answer != "exact"
    ):
        return
    model = inputs.model
    if model.loss.l2:  # which lifts what it is over
        return
    reason = _known(model, len(inputs.hessian.rows), job.curvature)
    left_out = "hessian_regularization" not in job.model_fields_set
    if reason is not None:
        given = "is left out" if left_out else "is 0"
        raise InvalidRequest.field(
            "/hessian_regularization",
            f"hessian_regularization (λ) {given}, and H is singular: {reason}. Otherwise {_DAMPED}; or take method "
            "'arnoldi', which inverts the strongest directions of H and leaves out the others",
            None if left_out else job.hessian_regularization,
        )
    if left_out and factorised is job.inversion and model.loss.name in _OF_SOFTMAX:
        raise InvalidRequest.field(
            "/hessian_regularization",
            f"hessian_regularization (λ) is left out, and H of {model.loss.name} is singular where one number can be "
            f"added to all logits: {_DAMPED}; or 0, if you know that H is positive definite",
        )


def _known(model: ModelRecord, rows: int, curvature: Curvature) -> str | None:
    """Why H is singular, as far as the check of the model has seen."""
    if model.unused:
        return (
            f"no loss depends on {_named(model.unused)}, which the model could be registered without "
            "('parameters' names those that count)"
        )
    if model.shifted:
        return (
            f"the same can be added to all entries of {_named(model.shifted)} without a change of any loss, as before "
            "a softmax"
        )
    count, rank = model.parameter_count, model.rank_per_row
    if curvature.facts.one_column_a_row and count is not None and count > rows:
        return (
            f"each row adds one to the rank of the {curvature.label} matrix, and there are {rows} rows for {count} "
            "parameters"
        )
    if count is not None and rank is not None and count > rank * rows:
        return (
            f"the outputs are linear in the {count} parameters, so that {rows} rows with {rank} outputs each give it "
            f"a rank of {rank * rows} at most"
        )
    return None


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
