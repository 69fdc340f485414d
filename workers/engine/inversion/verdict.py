"""Was the linear system solved? The answer in a level and a sentence, from the summary of a method's solutions.

A summary has `right_hand_sides`, `statuses` (how many ended in which), `worst_residual_norm`, and the info's numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch

Summary = Mapping[str, Any]

ROUNDING = 0.01  # of a factor in its weakest direction, from which on the user is told to look
FEW_UNSOLVED = 0.1  # share of right-hand sides
ADVICE = {
    "maxiter": "raise maxiter or hessian_regularization",
    "negative_curvature": "H + λI is not positive definite there: raise hessian_regularization",
    "stagnated": "rounding allows no smaller residual: loosen rtol, or use precision float64",
}


class Verdict(NamedTuple):
    """`good`; `fair`: look before you rely on it; `bad`: do not."""

    level: Literal["good", "fair", "bad"]
    text: str


def unsolved_statuses(summary: Summary) -> dict[str, int]:
    """How many right-hand sides ended in which status other than `converged`."""
    statuses = summary.get("statuses", {})
    return {each: count for each, count in statuses.items() if each != "converged" and count}


def of_right_hand_sides(summary: Summary) -> Verdict:
    """By how many right-hand sides converged."""
    total, missed = summary.get("right_hand_sides", 0), unsolved_statuses(summary)
    residual = f"the largest residual norm is {summary.get('worst_residual_norm', 0.0):.3g}"
    if "maximum_change_percent" in summary:
        change = summary["maximum_change_percent"]
        residual += f", and the last step changed an entry by at most {change:.2g} %"
    if not missed:
        steps = summary.get("iterations")
        within = "" if steps is None else f" within {steps:,} iteration{'s' if steps != 1 else ''}"
        return Verdict(
            "good",
            f"The linear system was solved: all {total:,} right-hand sides converged{within}; {residual}.",
        )
    missing = sum(missed.values())
    advice = "; ".join(ADVICE.get(status, status) for status in missed)
    few = missing != total and missing <= FEW_UNSOLVED * total
    return Verdict(
        "fair" if few else "bad",
        f"{missing:,} of {total:,} right-hand sides did not converge ({advice}); {residual}.",
    )


def of_factorisation(summary: Summary, damping: float, dtype: torch.dtype) -> Verdict:
    """By the condition number of H + λI, whose extreme eigenvalues the summary has."""
    low, high = summary["smallest_eigenvalue"] + damping, summary["largest_eigenvalue"] + damping
    if "damped_extremes" in summary:  # with a λ for each block
        low, high = summary["damped_extremes"]["smallest"], summary["damped_extremes"]["largest"]
    condition = high / low if low > 0.0 else math.inf
    facts = (
        f"H + λI was factorised: its eigenvalues go from {low:.3g} to {high:.3g}, a condition number of "
        f"{condition:.3g}."
    )
    rounding = condition * torch.finfo(dtype).eps
    if rounding > ROUNDING:
        wider = "" if dtype == torch.float64 else ", or use precision float64"
        return Verdict(
            "fair",
            f"{facts} Rounding can reach {min(rounding, 1.0):.0%} of a factor in its weakest direction: raise "
            f"hessian_regularization{wider}.",
        )
    return Verdict("good", f"The linear system was solved up to rounding. {facts}")


def of_low_rank(
    summary: Summary, damping: float, dtype: torch.dtype, rank_field: str, *, complement: bool
) -> Verdict:
    """Of an answer that is right within some directions of H, where something lies outside of them."""
    left = unsolved_statuses(summary)
    if not left or "negative_curvature" in left:
        return of_right_hand_sides(summary)
    rank, lost = summary.get("rank", "some"), summary.get("dropped_count", 0)
    residual = f"The largest residual norm is {summary.get('worst_residual_norm', 0.0):.3g}."
    if lost:
        wider = "" if dtype == torch.float64 else ", or use precision float64"
        return Verdict(
            "fair",
            f"{lost} of the {rank} eigenvalues found are, with λ = {damping:.3g}, within their own rounding of zero: "
            "what of a gradient lies in these directions is left out, which no residual shows. "
            f"{residual} Raise hessian_regularization{wider}.",
        )
    outside = "is divided by λ" if complement else "is dropped"
    return Verdict(
        "fair",
        f"A low-rank answer: the {rank} strongest directions of H are inverted, and what of a gradient lies outside "
        f"{outside}. {residual} Compare a few test rows with cg before you rely on it, or raise {rank_field} until "
        "the ranking no longer changes.",
    )
