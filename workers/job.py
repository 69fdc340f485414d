"""One job from its record to its stored result, in one task."""

from __future__ import annotations

import time
from typing import Any

from service.results.layout import ResultPaths
from service.storage.keys import Document
from workers.context import Context
from workers.grid.one_task import OneTask
from workers.grid.planner import planned
from workers.grid.work import AnyJob, Work
from workers.material import Gathering
from workers.results import ResultWriter
from workers.watch import Watch


def run(
    context: Context, namespace: str, job: Document, request: AnyJob, watch: Watch
) -> dict[str, Any]:
    """Computes and stores; answers the fields that a succeeded record has. Raises UpweightError, EngineError."""
    began = time.monotonic()
    watch.progress("load", 0, 1, "models")
    gathering = Gathering(context, namespace, job, request)
    material = gathering.material()
    plan = planned(request, material, gathering.rhs_count(), context.settings.memory_bytes)
    writer = ResultWriter(context.objects, ResultPaths(namespace, job["id"]))
    if job["attempt"] > 1:
        context.objects.delete_prefix(writer.paths.prefix)
    work = Work(request, material, plan, watch.progress)
    described = {
        "job_id": job["id"],
        "request": job["request"],
        "device": str(context.device),
        "seed": request.seed,
    }
    outcome, cost = OneTask(work, writer).run(described)
    return {
        **outcome,
        "cost": {
            "hessian_passes": cost.passes,
            "engine_seconds": cost.seconds,
            "seconds": time.monotonic() - began,
            "peak_memory_bytes": cost.peak_memory_bytes,
        },
    }
