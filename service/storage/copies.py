"""Copies of records in the object storage, each record's last state: what Redis is rebuilt from when it is lost.

Every change notes its record in a set in Redis, in the same step (`scripts.py`). Whoever makes a record copies it at
once, so that what was accepted outlives Redis; workers copy what the set names, so that nothing is left out however
the process ended that made the change. Two that copy the same record at once leave it in the set until its copy is
its last state.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

from redis import Redis

from service.logs import log
from service.storage import keys, scripts
from service.storage.keys import Document, Kind
from service.storage.objects import Objects
from service.storage.redis import reachable
from upweight.errors import Unavailable

FOLDER = "records"
VERSIONS = "versions"
_WRITERS = 8  # at once: an object of a remote storage takes some 20 ms


@dataclass(frozen=True)
class Copy:
    """A record as it was last. `idempotency` is the Redis key under which its request is known."""

    kind: Kind
    namespace: str
    document: Document
    idempotency: str | None = None
    fingerprint: str | None = None


@dataclass(frozen=True)
class LastVersion:
    """The highest version that was given to a name of which versions have been deleted."""

    kind: Kind
    namespace: str
    name: str
    version: int


class Copies:
    """Writes and reads the copies of all namespaces. Raises Unavailable."""

    def __init__(self, redis: Redis, objects: Objects) -> None:
        self._redis: Any = redis
        self._objects = objects
        self._saved = redis.register_script(scripts.SAVED)
        self._pool = ThreadPoolExecutor(_WRITERS, thread_name_prefix="copies")

    def secure(self, kind: Kind, namespace: str, id: str) -> None:
        """Copies a record now if that works; if not, it stays noted and a worker copies it later."""
        try:
            self.save(kind, namespace, id)
        except Unavailable as error:
            log("copy-postponed", level="warning", kind=kind, record=id, detail=error.detail)

    def save(self, kind: Kind, namespace: str, id: str) -> None:
        """Brings the copy of a record up to its last state; deletes it when the record was deleted.

        A record that is merely missing was lost with Redis, and its copy is what it is restored from.
        """
        name, member = keys.record_key(kind, namespace, id), keys.message(kind, namespace, id)
        with reachable(), self._redis.pipeline() as pipeline:
            pipeline.hmget(name, "doc", "token", "idempotency", "fingerprint")
            pipeline.sismember(keys.DELETED, member)
            (doc, token, idempotency, fingerprint), deleted = pipeline.execute()
        if doc is not None:
            content = {
                "kind": kind,
                "namespace": namespace,
                "document": json.loads(doc),
                "idempotency": idempotency.decode() if idempotency else None,
                "fingerprint": fingerprint.decode() if fingerprint else None,
            }
            self._objects.put(path(kind, namespace, id), json.dumps(content).encode())
            with reachable():
                deleted = self._saved(keys=[name, keys.UNSAVED, keys.DELETED], args=[member, token])
        if deleted:
            self._remove(kind, namespace, id)
            with reachable():
                self._redis.srem(keys.DELETED, member)
        elif doc is None:
            with reachable():
                self._redis.srem(keys.UNSAVED, member)

    def save_noted(self, limit: int = 500) -> int:
        """Copies some of the records that are noted; answers how many it took on."""
        with reachable():
            members = {
                member.decode()
                for noted in (keys.UNSAVED, keys.DELETED)
                for member in self._redis.srandmember(noted, limit)
            }
        for _ in self._pool.map(lambda member: self.save(*_parsed(member)), members):
            pass
        return len(members)

    def noted(self) -> int:
        """How many records have a copy that is not their last state."""
        with reachable():
            return int(self._redis.scard(keys.UNSAVED)) + int(self._redis.scard(keys.DELETED))

    def whole(self) -> bool:
        """Whether Redis has not lost records of which there are copies. A new service begins whole."""
        with reachable():
            if self._redis.exists(keys.WHOLE):
                return True
        if next(self._objects.walk(FOLDER), None) is not None:
            return False
        self.now_whole()
        return True

    def now_whole(self) -> None:
        """Says that Redis has all that there are copies of."""
        with reachable():
            self._redis.set(keys.WHOLE, 1)

    def not_whole(self) -> None:
        """Says that Redis may lack something."""
        with reachable():
            self._redis.delete(keys.WHOLE)

    def there(self, kind: Kind, namespace: str, id: str) -> bool:
        """Whether a record has a copy."""
        return self._objects.head(path(kind, namespace, id)) is not None

    def walk(self, *, jobs: bool) -> Iterator[Copy | LastVersion | str]:
        """The copies of all namespaces, of jobs or of what jobs use; the path alone of one that can't be read."""
        for meta in self._objects.walk(FOLDER):
            if ("/jobs/" in meta.path) is not jobs:
                continue
            try:
                content = json.loads(self._objects.get(meta.path))
                yield LastVersion(**content) if f"/{VERSIONS}/" in meta.path else Copy(**content)
            except FileNotFoundError:  # deleted meanwhile
                continue
            except (ValueError, TypeError):
                yield meta.path

    def _remove(self, kind: Kind, namespace: str, id: str) -> None:
        try:
            document = json.loads(self._objects.get(path(kind, namespace, id)))["document"]
        except FileNotFoundError:
            return
        if "version" in document:
            self._remember_version(kind, namespace, document["name"], int(document["version"]))
        self._objects.delete([path(kind, namespace, id)])

    def _remember_version(self, kind: Kind, namespace: str, name: str, version: int) -> None:
        """A version is never given twice, so the number outlives the records that had it."""
        where = f"{FOLDER}/{namespace}/{VERSIONS}/{kind}-{_digest(name)}.json"
        with reachable():
            given = int(self._redis.hget(keys.versions_key(kind, namespace), name) or 0)
        try:
            before = int(json.loads(self._objects.get(where))["version"])
        except FileNotFoundError:
            before = 0
        last = LastVersion(kind, namespace, name, max(version, given, before))
        self._objects.put(where, json.dumps(vars(last)).encode())


def path(kind: Kind, namespace: str, id: str) -> str:
    """Where the copy of a record lies."""
    return f"{FOLDER}/{namespace}/{kind}s/{id}.json"


def _parsed(member: str) -> tuple[Kind, str, str]:
    kind, namespace, id = member.split(" ")
    return cast(Kind, kind), namespace, id


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
