"""What of the contract works today. What does not is refused at once, never accepted and failed.

A row is deleted when the engine's part behind it is wired in; the file goes with the last row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from upweight.errors import NotAvailableYet
from upweight.schema import JobRequest


@dataclass(frozen=True)
class Missing:
    """A part of the contract that is not there yet: where it is asked for, when, and what to do instead."""

    pointer: str
    asked: Callable[[Any], bool]
    words: str


MISSING = (
    Missing("/kind", lambda job: job.kind == "factors", "kind 'factors'; kind 'influences' is"),
    Missing("/kind", lambda job: job.kind == "ihvp", "kind 'ihvp'; kind 'influences' is"),
    Missing(
        "/kind",
        lambda job: job.kind == "self_influences",
        "kind 'self_influences'; kind 'influences' is",
    ),
    Missing(
        "/influence_type",
        lambda job: getattr(job, "influence_type", "up") == "perturbation",
        "influence_type 'perturbation'; 'up' is",
    ),
    Missing(
        "/perturb_at",
        lambda job: getattr(job, "perturb_at", None) is not None,
        "perturbation at an inner module; leave 'perturb_at' out",
    ),
    Missing(
        "/factors",
        lambda job: getattr(job, "factors", None) is not None,
        "the factors of an earlier job; leave 'factors' out",
    ),
    Missing(
        "/inversion/method",
        lambda job: job.inversion.method == "lissa",
        "method 'lissa'; 'direct' and 'cg' are",
    ),
    Missing(
        "/inversion/method",
        lambda job: job.inversion.method == "arnoldi",
        "method 'arnoldi'; 'direct' and 'cg' are",
    ),
    Missing(
        "/inversion/x0",
        lambda job: getattr(job.inversion, "x0", None) is not None,
        "a first guess; leave 'x0' out",
    ),
    Missing(
        "/inversion/h0",
        lambda job: getattr(job.inversion, "h0", None) is not None,
        "a first guess; leave 'h0' out",
    ),
    Missing(
        "/hessian_on",
        lambda job: job.hessian_on is not None,
        "a Hessian over other rows; leave 'hessian_on' out: it is over all rows of train's dataset",
    ),
    Missing(
        "/precision",
        lambda job: job.precision in ("tf32", "bf16"),
        "precisions 'tf32' and 'bf16'; 'float32' and 'float64' are",
    ),
    Missing(
        "/webhook",
        lambda job: job.webhook is not None,
        "webhooks; wait with GET /v1/jobs/{id}?wait=60 or follow /events",
    ),
)


def refuse_missing(job: JobRequest) -> None:
    """Raises NotAvailableYet for the first thing asked for that is not there yet."""
    for row in MISSING:
        if row.asked(job):
            raise NotAvailableYet.field(row.pointer, f"not available yet: {row.words}")
