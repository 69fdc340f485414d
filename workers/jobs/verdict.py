"""The verdict on a result: was the linear system solved, and does influence apply here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from upweight.schema import LEVELS, Arnoldi, Direct, JobRequest, Judgement, Level
from workers.engine import Optimality

Summary = Mapping[str, Any]

# ‖∇L + wθ‖ in units of a typical row's gradient. Networks of benchmarks and demo: 0.0004 to 0.03 after L-BFGS or
# Adam, 0.05 to 0.1 after SGD at a constant rate, 0.08 to 0.12 untrained.
NEAR_OPTIMUM, FAR_FROM_OPTIMUM = 0.05, 0.25
ROUNDING = 0.01  # of a factor in its weakest direction, from which on the user is told to look
FEWEST_BY_CURVATURE = 0.01  # of ‖b‖ that is ‖Hx‖: below it x is b / λ
FEW_UNSOLVED = 0.1  # share of right-hand sides

ADVICE = {
    "maxiter": "raise maxiter or hessian_regularization",
    "negative_curvature": "H + λI is not positive definite there: raise hessian_regularization",
    "stagnated": "rounding allows no smaller residual: loosen rtol, or use precision float64",
}


def solved(request: JobRequest, summary: Summary, dtype: torch.dtype) -> Judgement:
    """Of the info's summary: whether (H + λI) x = b was solved for each right-hand side b."""
    judge: Callable[[JobRequest, Summary, torch.dtype], Judgement] = _iterative
    if "negative_curvature" in _unsolved(summary):
        judge = _iterative
    elif isinstance(request.inversion, Direct) and "smallest_eigenvalue" in summary:
        judge = _factorised
    elif isinstance(request.inversion, Arnoldi) and _unsolved(summary):
        judge = _low_rank
    found = judge(request, summary, dtype)
    warning = summary.get("warning")
    return Judgement(level="bad", text=f"{found.text} {warning}") if warning else found


def _unsolved(summary: Summary) -> dict[str, int]:
    statuses = summary.get("statuses", {})
    return {each: count for each, count in statuses.items() if each != "converged" and count}


def _iterative(request: JobRequest, summary: Summary, dtype: torch.dtype) -> Judgement:
    total, unsolved = summary.get("right_hand_sides", 0), _unsolved(summary)
    residual = f"the largest residual norm is {summary.get('worst_residual_norm', 0.0):.3g}"
    if "maximum_change_percent" in summary:
        change = summary["maximum_change_percent"]
        residual += f", and the last step changed an entry by at most {change:.2g} %"
    if not unsolved:
        steps = summary.get("iterations")
        within = "" if steps is None else f" within {steps:,} iteration{'s' if steps != 1 else ''}"
        return Judgement(
            level="good",
            text=f"The linear system was solved: all {total:,} right-hand sides converged{within}; {residual}.",
        )
    missing = sum(unsolved.values())
    advice = "; ".join(ADVICE.get(status, status) for status in unsolved)
    level: Level = "bad" if missing == total or missing > FEW_UNSOLVED * total else "fair"
    return Judgement(
        level=level,
        text=f"{missing:,} of {total:,} right-hand sides did not converge ({advice}); {residual}.",
    )


def _factorised(request: JobRequest, summary: Summary, dtype: torch.dtype) -> Judgement:
    damping = request.hessian_regularization
    low, high = summary["smallest_eigenvalue"] + damping, summary["largest_eigenvalue"] + damping
    condition = high / low if low > 0.0 else math.inf
    facts = (
        f"H + λI was factorised: its eigenvalues go from {low:.3g} to {high:.3g}, a condition number of "
        f"{condition:.3g}."
    )
    rounding = condition * torch.finfo(dtype).eps
    if rounding > ROUNDING:
        wider = "" if dtype == torch.float64 else ", or use precision float64"
        return Judgement(
            level="fair",
            text=f"{facts} Rounding can reach {min(rounding, 1.0):.0%} of a factor in its weakest direction: raise "
            f"hessian_regularization{wider}.",
        )
    return Judgement(level="good", text=f"The linear system was solved up to rounding. {facts}")


def _low_rank(request: JobRequest, summary: Summary, dtype: torch.dtype) -> Judgement:
    assert isinstance(request.inversion, Arnoldi)
    rank = summary.get("rank", request.inversion.rank_estimate)
    residual = f"The largest residual norm is {summary.get('worst_residual_norm', 0.0):.3g}."
    if lost := summary.get("dropped_count", 0):
        wider = "" if dtype == torch.float64 else ", or use precision float64"
        return Judgement(
            level="fair",
            text=f"{lost} of the {rank} eigenvalues found are, with λ = {request.hessian_regularization:.3g}, "
            "within their own rounding of zero: what of a gradient lies in these directions is left out, which no "
            f"residual shows. {residual} Raise hessian_regularization{wider}.",
        )
    outside = "is divided by λ" if request.inversion.complement else "is dropped"
    return Judgement(
        level="fair",
        text=f"A low-rank answer: the {rank} strongest directions of H are inverted, and what of a gradient lies "
        f"outside {outside}. {residual} Compare a few test rows with cg before you rely on it, or raise rank_estimate "
        "until the ranking no longer changes.",
    )


def applies(
    damping: float, found: Optimality, summary: Summary, known: Tensor | None, size: int
) -> Judgement:
    """Whether influence says something about retraining: θ near an optimum, and directions that λ leaves to the data.

    `summary` is the info's; `known` (k,) are the eigenvalues of H that the inversion found, of `size` in all.
    """
    parts = [_near_optimum(damping, found)]
    if known is not None and known.numel():
        parts.append(_below(damping, known, size))
    if "curvature_share" in summary and not _unsolved(summary):
        parts.append(_left_by_damping(summary["curvature_share"]))
    level = max((level for level, _ in parts), key=LEVELS.index)
    return Judgement(level=level, text=" ".join(sentence for _, sentence in parts if sentence))


def _near_optimum(damping: float, found: Optimality) -> tuple[Level, str]:
    decay, ratio = found.nearest_decay(damping), found.ratio(damping)
    least = (
        f"‖∇L + wθ‖ is {found.norm(decay):.3g} at weight decay w = {decay:.3g}, {ratio:.2%} of a single training "
        f"row's gradient, {found.typical_norm:.3g} (‖∇L + λθ‖ is {found.norm(damping):.3g})"
    )
    if ratio <= NEAR_OPTIMUM:
        return "good", f"θ is near an optimum of its training loss: {least}."
    return (
        "fair" if ratio <= FAR_FROM_OPTIMUM else "bad",
        f"θ is not at an optimum of its training loss: {least}. Influence is then about the loss surface around θ, "
        "and says less about retraining: train further, or register the loss that was trained.",
    )


def _below(damping: float, known: Tensor, size: int) -> tuple[Level, str]:
    below, count = int((known.abs() < damping).sum()), known.numel()
    every = f"{count:,}" if count == size else f"{count:,} known"
    told = f"{below:,} of the {every} eigenvalues of H ({below / count:.0%}) lie below λ"
    if below == count:
        return (
            "bad",
            f"{told}: λ alone decides, and influences are those of plain gradient products.",
        )
    return "good", f"{told}{': in those directions λ decides, not the data' if below else ''}."


def _left_by_damping(share: float) -> tuple[Level, str]:
    if share < FEWEST_BY_CURVATURE:
        return (
            "bad",
            f"H makes up {share:.2%} of the right-hand sides and λ the rest: influences are those of plain gradient "
            "products; lower hessian_regularization.",
        )
    return "good", f"H makes up {share:.0%} of the right-hand sides, λ the rest."


def not_measured(reason: str) -> Judgement:
    """Where the gradient of the training loss could not be taken."""
    return Judgement(
        level="fair", text=f"Whether θ is near an optimum could not be measured: {reason}"
    )


def not_told_of_factors() -> Judgement:
    """Where an earlier job's factors come from a version that gave no verdict."""
    return Judgement(
        level="fair",
        text="The factors were taken from an earlier job, which does not say whether they were solved for.",
    )
