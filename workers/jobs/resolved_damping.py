"""What the λ of a job is, once for all its blocks and attempts: the record has it before anything is solved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from service.storage.keys import Document
from upweight.errors import ComputationFailed
from upweight.schema import AttributionJob, Relative, ResolvedDamping, Trained
from upweight.schema.damping import as_asked, entries
from workers.engine.inversion.damping import Measured, of_blocks
from workers.jobs.asked_damping import asked_of_fit, by_blocks, number_of
from workers.jobs.steps import Steps

GIVE_A_NUMBER = "give hessian_regularization as a number"


def worked_out(steps: Steps) -> ResolvedDamping | None:
    """By what H is measured to be, where that is needed; None where λ is a number. Raises ComputationFailed."""
    asked = steps.request.hessian_regularization
    if isinstance(asked, float | int) or by_blocks(steps.request):
        return None
    each = entries(asked)
    if all(isinstance(one, float | int) for one in each):
        return ResolvedDamping(
            rule=",".join(["number"] * len(each)), values=[float(one) for one in each]
        )
    found = None
    if any(number_of(one) is None for one in each):
        found = steps.measured_curvature(ends="auto" in each)
    pairs = [_one(one, found) for one in each]
    values = [value for value, _ in pairs]
    for one, value in zip(each, values, strict=True):
        if not (value > 0.0 and math.isfinite(value)):
            mean = math.nan if found is None else found.mean
            way = (
                ""
                if one == "auto"
                else ', or take "auto", which looks at the smallest eigenvalue, too'
            )
            raise ComputationFailed.field(
                "/hessian_regularization",
                f"the mean eigenvalue of H is {mean:.3g}, and a part of it is no λ above 0: {GIVE_A_NUMBER}{way}",
                steps.request.model_dump(mode="json")["hessian_regularization"],
            )
    return ResolvedDamping(
        rule=",".join(rule for _, rule in pairs),
        values=values,
        mean_eigenvalue=None if found is None else found.mean,
        mean_error=None if found is None else found.mean_error,
        smallest_eigenvalue=None if found is None else found.smallest,
        share_below=[None if found is None else found.share_below(value) for value in values],
        how=_how(steps, each, found),
    )


def _how(steps: Steps, each: Sequence[Any], found: Measured | None) -> str:
    """What λ was measured with, or worked out from."""
    if isinstance(each[0], Trained):  # which stands alone
        auto = each[0].auto
        return (
            f"w + (1 − μ) / (η K) with weight decay w = {auto.weight_decay:g}, momentum μ = {auto.momentum:g}, mean "
            f"learning rate η = {auto.learning_rate:.4g}, and K = {auto.steps} steps"
        )
    recipe = steps.inputs.recipe
    unused = ""
    if each[0] == "auto" and recipe is not None:
        unused = f"; the model's recipe says nothing of λ: steps of {recipe.optimizer!r} are not those of its rate"
    return "" if found is None else f"{found.how}{unused}"


def _one(asked: Any, found: Measured | None) -> tuple[float, str]:
    """λ, and the rule that gave it."""
    number = number_of(asked)
    if number is not None:
        return number, _rule(asked)
    assert found is not None
    return (
        (asked.relative * found.mean, _rule(asked)) if isinstance(asked, Relative) else found.safe
    )


def of_fit(steps: Steps) -> ResolvedDamping:
    """What λ came to where it is worked out from the fit, block by block."""
    form = steps.closed_form()
    found = [of_blocks(form, asked) for asked in asked_of_fit(steps.request)]
    values = form.eigenvalues
    return ResolvedDamping(
        rule=",".join(map(_rule, entries(steps.request.hessian_regularization))),
        values=[each.mean for each in found],
        blocks=[list(each.dampings) for each in found],
        mean_eigenvalue=float(values.mean()),
        mean_error=0.0,
        smallest_eigenvalue=float(values[0]),
        share_below=[each.share_below for each in found],
        how="a λ for each block, by the mean eigenvalue of that block; `values` are their means over all parameters",
    )


def _rule(asked: Any) -> str:
    if isinstance(asked, float | int):
        return "number"
    if isinstance(asked, Trained):
        return "recipe"
    return "relative" if isinstance(asked, Relative) else "mean of each block"


def as_worked_out(request: AttributionJob, job: Document) -> AttributionJob:
    """The request with λ as what it came to, as the job's record has it."""
    found = job.get("damping")
    if not found:
        return request
    values = as_asked(request.hessian_regularization, found["values"])
    return request.model_copy(update={"hessian_regularization": values})


def with_known_shares(damping: Document, known: Tensor | None, size: int) -> Document:
    """With the shares of eigenvalues below each λ, where all are known by now."""
    if known is None or known.numel() != size:
        return damping
    shares = [float((known.abs() < value).double().mean()) for value in damping["values"]]
    how = damping["how"] or f"all {size:,} eigenvalues of H"
    return {**damping, "share_below": shares, "how": how}
