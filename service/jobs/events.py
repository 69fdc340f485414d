"""A job's changes as server-sent events."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from service.jobs.actions import look
from service.parts import Parts
from upweight.schema import TERMINAL, JobRecord

KEEPALIVE_SECONDS = 15.0


async def events(parts: Parts, namespace: str, id: str, seen: int | None) -> AsyncIterator[bytes]:
    """An event for each change that is noticed, from the present state on; the last one is the terminal state.

    `seen` is the revision that the client has already. Changes faster than the reading are joined.
    """
    sent: tuple[int | None, int | None] = (seen, None)
    last = time.monotonic()
    first = True
    async for job in parts.changes.follow("job", namespace, id, lambda: look(parts, namespace, id)):
        state = (job["revision"], job.get("queue_position"))
        known = job["revision"] == seen if first else state == sent
        first = False
        if not known:
            record = JobRecord.model_validate(job)
            yield format_sse_event(
                event="job", id=str(job["revision"]), data_str=record.model_dump_json()
            )
            last = time.monotonic()
        elif time.monotonic() - last >= KEEPALIVE_SECONDS:
            yield KEEPALIVE_COMMENT
            last = time.monotonic()
        sent = state
        if job["state"] in TERMINAL:
            return
