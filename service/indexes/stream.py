"""A question to an index as server-sent events: what goes on until its answer is there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from service.answers.events import KEEPALIVE_SECONDS, MEDIA_TYPE, EventStream
from service.indexes.question import Question
from service.logs import log_exception
from service.requests import Trace
from service.storage.keys import Document
from service.storage.questions import Following
from upweight.errors import InternalError, UpweightError
from upweight.schema import IndexAnswer, IndexProgress

EVENTS: dict[str, Any] = {
    "description": "The answer. With `Accept: text/event-stream` events: `progress`, each with an IndexProgress as "
    "data; then `answer` with an IndexAnswer, or `problem` with a Problem, which is the last one.",
    "content": {
        MEDIA_TYPE: {
            "schema": {
                "type": "object",
                "properties": {
                    "event": {"enum": ["progress", "answer", "problem"]},
                    "data": {"type": "string", "description": "The event's JSON."},
                },
            }
        }
    },
}


def wants_events(accept: str | None) -> bool:
    """Whether a request names their type."""
    kinds = (each.partition(";")[0].strip().lower() for each in (accept or "").split(","))
    return MEDIA_TYPE in kinds


def followed(question: Question, trace: Trace) -> EventStream:
    """Counts as one of its namespace's questions while it is sent."""
    limit, namespace = question.parts.question_limit, question.namespace
    return EventStream(_events(question, trace), lambda: limit.one(namespace))


async def _events(question: Question, trace: Trace) -> AsyncIterator[bytes]:
    """What is heard, as it is; the last one is the answer, or why there is none."""
    loop, heard, left = (
        asyncio.get_running_loop(),
        asyncio.Queue[Document | None](),
        threading.Event(),
    )

    def hear(progress: Document) -> None:
        loop.call_soon_threadsafe(heard.put_nowait, progress)

    asking = loop.run_in_executor(
        question.parts.asking, question.answered, trace, Following(hear, left.is_set)
    )
    asking.add_done_callback(lambda _: heard.put_nowait(None))
    last: Document | None = None
    try:
        while True:
            try:
                async with asyncio.timeout(KEEPALIVE_SECONDS):
                    progress = await heard.get()
            except TimeoutError:
                yield KEEPALIVE_COMMENT
                continue
            if progress is None:
                break
            if progress != last:
                yield _event("progress", IndexProgress.model_validate(progress))
            last = progress
        yield _last(asking, trace)
    finally:
        left.set()
        asking.add_done_callback(lambda done: done.cancelled() or done.exception())


def _last(asking: asyncio.Future[IndexAnswer], trace: Trace) -> bytes:
    try:
        return _event("answer", asking.result())
    except UpweightError as error:
        return _event("problem", error.problem(trace.request_id))
    except Exception:
        log_exception("crash", request_id=trace.request_id)
        words = "something went wrong on our side; the request_id leads to it in the service's log"
        return _event("problem", InternalError(words).problem(trace.request_id))


def _event(name: str, data: Any) -> bytes:
    found: bytes = format_sse_event(event=name, data_str=data.model_dump_json())
    return found
