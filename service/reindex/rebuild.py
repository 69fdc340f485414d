"""Rebuilds Redis from the object storage: records with their indexes, versions, idempotency keys, queues, API keys,
and the qualities that were measured.

It adds what is missing and changes nothing that is there, so it may run again, and while the service runs. What was
queued or running is queued anew; finished blocks of a result are found by the worker and are not computed again.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from redis import Redis

from service.auth import Keys
from service.lifecycle.states import now
from service.storage import keys, scripts
from service.storage.copies import Copies, Copy, LastVersion
from service.storage.keys import Document, Kind
from service.storage.layout import ResultPaths
from service.storage.objects import Objects
from service.storage.qualities import Qualities
from service.storage.queue import CHECK_PRIORITY, CHECKS, RUN_JOB, TaskQueue
from service.storage.redis import reachable
from service.storage.shared import Shared
from upweight.schema import CheckState, JobState


@dataclass
class Rebuilt:
    """What was done, or would be: numbers by kind, and the copies that could not be read."""

    restored: Counter[str] = field(default_factory=Counter)
    there: Counter[str] = field(default_factory=Counter)
    queued: int = 0
    unreadable: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "restored": dict(self.restored),
            "there": dict(self.there),
            "queued": self.queued,
            "unreadable": self.unreadable,
        }


class Rebuild:
    """One run. Raises Unavailable; run again then, it goes on with what is missing."""

    def __init__(
        self, redis: Redis, objects: Objects, queue: TaskQueue, *, dry_run: bool = False
    ) -> None:
        self._redis: Any = redis
        self._objects = objects
        self._copies = Copies(redis, objects)
        self._queue = queue
        self._dry_run = dry_run
        self._restore = redis.register_script(scripts.RESTORE)
        self._raise = redis.register_script(scripts.RAISE_VERSION)
        self._keys = Keys(redis, objects)
        self._shared = Shared(redis, objects)
        self._qualities = Qualities(redis, objects)
        self.rebuilt = Rebuilt()

    def run(self) -> Rebuilt:
        """Goes once through all copies. Keys first: without any, the service would be open to its machine; jobs last,
        for a worker may take one at once."""
        if not self._dry_run:
            self._copies.not_whole()  # so that nothing is taken for left behind meanwhile
        found = self._keys.restore(dry_run=self._dry_run)
        if found:
            self.rebuilt.restored["key"] = found
        for counted, number in zip(
            (self.rebuilt.restored, self.rebuilt.there),
            self._qualities.restore(dry_run=self._dry_run),
            strict=True,
        ):
            if number:
                counted["quality"] = number
        for copy in chain(self._copies.walk(jobs=False), self._copies.walk(jobs=True)):
            match copy:
                case Copy():
                    self._bring_back(copy)
                case LastVersion():
                    self._raise_version(copy.kind, copy.namespace, copy.name, copy.version)
                case path:
                    self.rebuilt.unreadable.append(path)
        if not self._dry_run and not self.rebuilt.unreadable:
            self._copies.now_whole()
        return self.rebuilt

    def _bring_back(self, copy: Copy) -> None:
        document = revived(copy, self._objects)
        outcome = self._outcome(copy, document)
        if outcome == "restored":
            self.rebuilt.restored[copy.kind] += 1
        elif outcome == "there":
            self.rebuilt.there[copy.kind] += 1
        if "version" in document:
            self._raise_version(
                copy.kind, copy.namespace, document["name"], int(document["version"])
            )
        for folder in () if self._dry_run else document.get("shared", ()):
            self._shared.restore(copy.namespace, folder)
        waits = document["state"] in (JobState.QUEUED, CheckState.CHECKING)
        if outcome == "restored" and waits:
            self.rebuilt.queued += 1
            if not self._dry_run:
                self._enqueue(copy.kind, copy.namespace, document)

    def _outcome(self, copy: Copy, document: Document) -> str:
        kind, namespace, id = copy.kind, copy.namespace, document["id"]
        name, member = keys.record_key(kind, namespace, id), keys.message(kind, namespace, id)
        indexes = keys.indexes(kind, namespace, document)
        if self._dry_run:
            with reachable():
                there = self._redis.exists(name)
                deleted = self._redis.sismember(keys.DELETED, member)
            return "deleted" if deleted else "there" if there else "restored"
        with reachable():
            self._redis.sadd(keys.NAMESPACES, namespace)
            outcome: str = self._restore(
                keys=[
                    name,
                    copy.idempotency or "",
                    keys.DELETED,
                    *indexes,
                ],
                args=[
                    id,
                    json.dumps(document),
                    copy.fingerprint or "",
                    _seconds_left(document),
                    member,
                    keys.CHANGES,
                    keys.UNSAVED,
                    *indexes.values(),
                ],
            ).decode()
        if outcome == "restored" and not self._copies.there(kind, namespace, id):
            # Deleted between the reading of its copy and this restoring.
            self._forget(kind, namespace, id, document)
            return "deleted"
        return outcome

    def _forget(self, kind: Kind, namespace: str, id: str, document: Document) -> None:
        with reachable(), self._redis.pipeline() as pipeline:
            pipeline.delete(keys.record_key(kind, namespace, id))
            for index in keys.indexes(kind, namespace, document):
                pipeline.zrem(index, id)
            pipeline.srem(keys.UNSAVED, keys.message(kind, namespace, id))
            pipeline.execute()

    def _raise_version(self, kind: Kind, namespace: str, name: str, version: int) -> None:
        if not self._dry_run:
            with reachable():
                self._raise(keys=[keys.versions_key(kind, namespace)], args=[name, version])

    def _enqueue(self, kind: Kind, namespace: str, document: Document) -> None:
        if kind == "job":
            self._queue.enqueue(
                RUN_JOB,
                namespace,
                document["id"],
                attempt=document["attempt"],
                priority=document["request"]["priority"],
            )
        else:
            self._queue.enqueue(CHECKS[kind], namespace, document["id"], priority=CHECK_PRIORITY)


def revived(copy: Copy, objects: Objects) -> Document:
    """The document that a copy becomes: what was under way is queued, what was being cancelled is."""
    document = copy.document
    match document["state"]:
        case JobState.QUEUED | JobState.RUNNING:
            return {
                **document,
                "state": JobState.QUEUED,
                # A worker that is still at the attempt of before finds another one here, and stops.
                "attempt": document["attempt"] + 1,
                "worker": None,
                "device": None,
                "started_at": None,
            }
        case JobState.CANCELLING:
            return {**document, "state": JobState.CANCELLED, "finished_at": now()}
        case JobState.SUCCEEDED if not document.get("expired_at"):
            if objects.head(ResultPaths(copy.namespace, document["id"]).manifest) is None:
                return {**document, "expired_at": now()}
    return document


def _seconds_left(document: Document) -> int:
    """How long the idempotency key of a record is still kept."""
    age = datetime.now(UTC) - datetime.fromisoformat(document["created_at"])
    return max(0, int(keys.IDEMPOTENCY_SECONDS - age.total_seconds()))
