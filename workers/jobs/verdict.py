"""The verdict on a result: was the linear system solved, and does influence apply here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from upweight.schema import LEVELS, AttributionJob, Judgement, Level
from workers.engine import Optimality, unsolved_statuses
from workers.fits.fits import engine_method

Summary = Mapping[str, Any]

# ‖∇L + wθ‖ in units of a typical row's gradient. Networks of benchmarks and demo: 0.0004 to 0.03 after L-BFGS or
# Adam, 0.05 to 0.1 after SGD at a constant rate, 0.08 to 0.12 untrained.
NEAR_OPTIMUM, FAR_FROM_OPTIMUM = 0.05, 0.25
FEWEST_BY_CURVATURE = 0.01  # of ‖b‖ that is ‖Hx‖: below it x is b / λ


def solved(
    request: AttributionJob, summary: Summary, dtype: torch.dtype, damping: float | None = None
) -> Judgement:
    """Of one λ's summary: whether (H + λI) x = b was solved for each right-hand side b, as the method says."""
    method = engine_method(request.inversion, request.seed)
    level, text = method.verdict(
        summary, request.dampings[0] if damping is None else damping, dtype
    )
    warning = summary.get("warning")
    return Judgement(
        level="bad" if warning else level, text=f"{text} {warning}" if warning else text
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
    if "curvature_share" in summary and not unsolved_statuses(summary):
        parts.append(_left_by_damping(summary["curvature_share"]))
    level = max((level for level, _ in parts), key=LEVELS.index)
    return Judgement(level=level, text=" ".join(sentence for _, sentence in parts if sentence))


def worst(judgements: Sequence[Judgement], dampings: Sequence[float]) -> Judgement:
    """The worst of those of several λ's, with the λ it is of, and how many are as bad."""
    levels = [LEVELS.index(each.level) for each in judgements]
    at = levels.index(max(levels))
    as_bad = levels.count(levels[at])
    others = "" if as_bad == 1 else f", and {as_bad - 1} are like it"
    text = f"Of {len(levels)} λ's the worst is {dampings[at]:.3g}{others}: {judgements[at].text}"
    return Judgement(level=judgements[at].level, text=text)


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
