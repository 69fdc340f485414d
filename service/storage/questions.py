"""Questions that a worker answers while somebody waits, in Redis: never recorded, and gone when nobody waits."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from redis import Redis
from ulid import ULID

from service.storage.keys import PREFIX, Document
from service.storage.queue import HIGH, TaskQueue
from service.storage.redis import reachable
from upweight.errors import Unavailable, error_from
from upweight.schema import Problem

Array = np.ndarray[Any, Any]
RUN_QUESTION = "workers.tasks.answer"
_HELD_SECONDS = 1  # one look for the answer: less than the connection's own timeout
_KEPT_SECONDS = 30  # an answer that nobody fetches
FOLLOWED = "followed"  # in a question: whether somebody hears what goes on
QUEUED = 10  # times as long a question that is followed waits for a worker


@dataclass(frozen=True)
class Following:
    """Who follows a question: hears of each step, and may have gone."""

    heard: Callable[[Document], None]
    left: Callable[[], bool]


@dataclass(frozen=True)
class Questions:
    """Puts questions into the queue of what somebody waits for, and takes answers from there."""

    redis: Redis
    queue: TaskQueue

    def asked(
        self,
        namespace: str,
        question: Document,
        arrays: Mapping[str, Array],
        seconds: float,
        trace: str = "",
        following: Following | None = None,
    ) -> Document:
        """The answer. Raises what the worker has found wrong, QueueFull, and Unavailable where none has answered.

        `following`: hears what goes on, and waits as long anew whenever the worker tells something.
        """
        id = f"qry_{ULID()}"
        packed = io.BytesIO()
        np.savez(packed, **arrays)  # type: ignore[arg-type]
        client: Any = self.redis
        self.queue.refuse_if_full(HIGH)
        with reachable(), client.pipeline() as pipeline:
            told = {**question, FOLLOWED: following is not None}
            fields = {"question": json.dumps(told), "arrays": packed.getvalue()}
            pipeline.hset(_question(id), mapping=fields)
            pipeline.expire(_question(id), int(seconds) + 1)
            pipeline.execute()
        try:
            self.queue.enqueue(RUN_QUESTION, namespace, id, priority=HIGH, trace=trace)
            return self._waited_for(id, seconds, following)
        finally:
            with reachable():
                client.delete(_question(id))

    def _waited_for(self, id: str, seconds: float, following: Following | None) -> Document:
        waited = seconds if following is None else QUEUED * seconds
        deadline = time.monotonic() + waited
        client: Any = self.redis
        taken = False
        while time.monotonic() < deadline:
            if following is not None:
                if following.left():
                    self.queue.remove(id, 0, HIGH)
                    raise Unavailable("nobody waits for the answer any more")
                with reachable():  # or whoever takes it finds that nobody waits
                    client.expire(_question(id), int(seconds) + 1)
                if not taken:
                    before = self.queue.position(id, 0, HIGH)
                    following.heard({"stage": "queued", "done": 0, "total": before or 0})
            with reachable():
                found = client.blpop([_answer(id)], timeout=_HELD_SECONDS)
            if found is None:
                continue
            answer: Document = json.loads(found[1])
            if "problem" in answer:
                raise error_from(Problem.model_validate(answer["problem"]))
            if "progress" not in answer:
                return answer
            if following is not None:
                following.heard(answer["progress"])
            taken, waited, deadline = True, seconds, time.monotonic() + seconds
        self.queue.remove(id, 0, HIGH)
        raise Unavailable(
            f"no worker has answered within {waited:g} s: all are at other work, or none runs. Ask again, or have the "
            "operator keep a worker for what somebody waits for: `upweight worker --queues high`",
            retry_after=5,
        )

    def taken(self, id: str) -> tuple[Document, dict[str, Array]] | None:
        """A question and its arrays; None where nobody waits for the answer any more."""
        client: Any = self.redis
        with reachable():
            fields = client.hgetall(_question(id))
        if not fields:
            return None
        with np.load(io.BytesIO(fields[b"arrays"]), allow_pickle=False) as arrays:
            return json.loads(fields[b"question"]), {name: arrays[name] for name in arrays.files}

    def tell(self, id: str, progress: Document) -> bool:
        """What goes on, for whoever follows the question; false where nobody does any more."""
        client: Any = self.redis
        with reachable(), client.pipeline() as pipeline:
            pipeline.exists(_question(id))
            pipeline.rpush(_answer(id), json.dumps({"progress": progress}))
            pipeline.expire(_answer(id), _KEPT_SECONDS)
            return bool(pipeline.execute()[0])

    def answer(self, id: str, answer: Document) -> None:
        """For whoever waits."""
        client: Any = self.redis
        with reachable(), client.pipeline() as pipeline:
            pipeline.rpush(_answer(id), json.dumps(answer))
            pipeline.expire(_answer(id), _KEPT_SECONDS)
            pipeline.execute()


def _question(id: str) -> str:
    return f"{PREFIX}:question:{id}"


def _answer(id: str) -> str:
    return f"{PREFIX}:answer:{id}"
