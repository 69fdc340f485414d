"""The λ's that a job asks for, as what is fitted takes them: numbers, or parts of a closed form's own eigenvalues."""

from __future__ import annotations

import math

from upweight.schema import AttributionJob, Relative, Trained
from upweight.schema.damping import entries, numbers
from workers.engine.inversion.damping import LEAST_OF_MEAN, PartOfMean
from workers.engine.operators import ClosedForm


def number_of(asked: float | Relative | Trained | str) -> float | None:
    """λ, where it can be told without a look at H."""
    if isinstance(asked, float | int):
        return float(asked)
    return asked.auto.damping if isinstance(asked, Trained) else None


def by_blocks(request: AttributionJob) -> bool:
    """Whether λ is worked out from the fit itself, block by block, and not before it."""
    if not (request.curvature.closed_form and request.inversion.builds_matrix):
        return False
    return any(number_of(each) is None for each in entries(request.hessian_regularization))


def asked_of_fit(request: AttributionJob) -> tuple[float | PartOfMean, ...]:
    """The λ's of a job, in their order, each as a fit takes it."""
    if not by_blocks(request):
        return request.dampings
    return tuple(_of_fit(each) for each in entries(request.hessian_regularization))


def _of_fit(asked: float | Relative | Trained | str) -> float | PartOfMean:
    number = number_of(asked)
    if number is not None:
        return number
    if isinstance(asked, Relative):
        return PartOfMean(asked.relative)
    return PartOfMean(LEAST_OF_MEAN, lifts=True)


def damped(form: ClosedForm, asked: float | PartOfMean) -> ClosedForm:
    """A curvature in closed form with the λ that is asked for."""
    return form.damped(asked.of(form) if isinstance(asked, PartOfMean) else asked)


def fitted(request: AttributionJob) -> float | PartOfMean:
    """What a fit is made with: of a list the largest, which is the likeliest to be positive.

    NaN where λ is still to be worked out: nothing is fitted before.
    """
    if by_blocks(request):
        return asked_of_fit(request)[0]
    return max(numbers(request.hessian_regularization), default=math.nan)
