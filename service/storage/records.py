"""Records of models, datasets and jobs in Redis, and the indexes by which they are listed.

A record is a hash: `doc` (its JSON), `token` (changes with the doc: compare-and-set), `live` (JSON of fields that
change many times a second) and `revision` (grows with either; the id of an event). Lists are sorted sets in which
all scores are 0, so that members, being time-sortable ids, are walked in order; those of the versions of a name have
the version as their score. What changes is noted in the same
step for its copy (`copies.py`); `running` alone is not, for what was running is queued again.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from service.storage import keys, scripts
from service.storage.announcements import Announcement
from service.storage.keys import Document, Kind
from service.storage.redis import reachable
from upweight.errors import Conflict, IdempotencyConflict, InUse, NotFound, UpweightError, shown
from upweight.schema import CheckState, JobState

Change = Callable[[Document], Document | None]
Announce = Callable[[Document, Document], Announcement]
_silently: Announce = lambda before, after: Announcement()  # noqa: E731
_NAMES_COMPARED = 1000  # the newest records, for what a misspelt name may mean
_VERSIONS_TRIED = 99  # the newest, for one that was not rejected
_VERSIONS_NAMED = 9  # the newest, where one is asked for that is not there
_TRIES = 50  # of a compare-and-set against other writers


@dataclass(frozen=True)
class Idempotency:
    """A client's key and the digest of what it asked for."""

    key: str
    fingerprint: str


@dataclass(frozen=True)
class Room:
    """How many records some indexes may list together; `refusal` makes the error from how many there are."""

    indexes: Sequence[str]
    most: int
    refusal: Callable[[int], UpweightError]


@dataclass(frozen=True)
class Found:
    """A page of ids."""

    ids: list[str]
    has_more: bool


class Records:
    """All records of all namespaces. Raises Unavailable when Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self.redis: Any = redis
        self._create = redis.register_script(scripts.CREATE)
        self._replace = redis.register_script(scripts.REPLACE)
        self._live = redis.register_script(scripts.LIVE)
        self._delete = redis.register_script(scripts.DELETE)
        self._enter = redis.register_script(scripts.ENTER)

    def create(
        self,
        kind: Kind,
        namespace: str,
        document: Document,
        *,
        idempotency: Idempotency | None = None,
        requires: Sequence[tuple[Kind, str]] = (),
        room: Room | None = None,
    ) -> tuple[str, bool]:
        """Writes a new record unless the idempotency key was used; answers its id and whether it was made now.

        Raises IdempotencyConflict, what `room` says when there is none, and NotFound when a record in `requires` has
        gone.
        """
        id = document["id"]
        indexes = keys.indexes(kind, namespace, document)
        names = [
            keys.record_key(kind, namespace, id),
            keys.idempotency_key(kind, namespace, idempotency.key if idempotency else None),
            *(keys.record_key(other, namespace, other_id) for other, other_id in requires),
            *indexes,
        ]
        fingerprint = idempotency.fingerprint if idempotency else ""
        arguments = [
            id,
            json.dumps(document),
            fingerprint,
            keys.IDEMPOTENCY_SECONDS,
            len(requires),
            *_noted(kind, namespace, id),
            *indexes.values(),
        ]
        if room is not None:
            arguments += [room.most, *room.indexes]
        with reachable():
            self.redis.sadd(keys.NAMESPACES, namespace)
            outcome, *rest = self._create(keys=names, args=arguments)
        match outcome.decode():
            case "conflict":
                raise _used_otherwise()
            case "crowded":
                assert room is not None
                raise room.refusal(int(rest[0]))
            case "missing":
                other, other_id = requires[int(rest[0])]
                raise NotFound(f"{other} {other_id} has been deleted meanwhile")
            case made:
                return rest[0].decode(), made == "made"

    def made_by(self, kind: Kind, namespace: str, idempotency: Idempotency) -> str | None:
        """The id that an earlier request with this key made, if there was one. Raises IdempotencyConflict."""
        name = keys.idempotency_key(kind, namespace, idempotency.key)
        with reachable():
            fingerprint, id = self.redis.hmget(name, "fingerprint", "id")
        if fingerprint is None:
            return None
        if fingerprint.decode() != idempotency.fingerprint:
            raise _used_otherwise()
        return str(id.decode())

    def remember(self, kind: Kind, namespace: str, idempotency: Idempotency, id: str) -> None:
        """Keeps what a request did, for `made_by`: requests that make no record of their own."""
        name = keys.idempotency_key(kind, namespace, idempotency.key)
        with reachable(), self.redis.pipeline() as pipeline:
            pipeline.hset(name, mapping={"fingerprint": idempotency.fingerprint, "id": id})
            pipeline.expire(name, keys.IDEMPOTENCY_SECONDS)
            pipeline.execute()

    def get(self, kind: Kind, namespace: str, id: str) -> Document:
        """A record with its live fields and revision. Raises NotFound."""
        with reachable():
            raw = self.redis.hmget(keys.record_key(kind, namespace, id), "doc", "live", "revision")
        document = _document(raw)
        if document is None:
            raise not_found(kind, id)
        return document

    def get_many(self, kind: Kind, namespace: str, ids: Iterable[str]) -> list[Document]:
        """Records in the order of `ids`; those deleted meanwhile are left out."""
        with reachable(), self.redis.pipeline(transaction=False) as pipeline:
            for id in ids:
                pipeline.hmget(keys.record_key(kind, namespace, id), "doc", "live", "revision")
            found = [_document(raw) for raw in pipeline.execute()]
        return [document for document in found if document is not None]

    def update(
        self, kind: Kind, namespace: str, id: str, change: Change, announce: Announce = _silently
    ) -> Document:
        """Applies `change` to the stored document, alone: repeated when another writer was faster.

        `change` gets a copy and returns the new document, or None to leave it. It may raise. What `announce` makes of
        both is written in the same step. Answers what is stored.
        """
        for _ in range(_TRIES):
            with reachable():
                raw, token, live, revision = self.redis.hmget(
                    keys.record_key(kind, namespace, id), "doc", "token", "live", "revision"
                )
            before = _document((raw, live, revision))
            if raw is None or before is None:
                raise not_found(kind, id)
            stored = json.loads(raw)
            after = change(json.loads(raw))
            if after is None:
                return before
            moved = stored["state"] != after["state"]
            names = [
                keys.record_key(kind, namespace, id),
                keys.state_index(kind, namespace, stored["state"]) if moved else "",
                keys.state_index(kind, namespace, after["state"]) if moved else "",
            ]
            noted = _noted(kind, namespace, id, kept=after["state"] != JobState.RUNNING)
            event = announce(stored, after)
            arguments = [id, token, json.dumps(after), *noted, *event.arguments]
            with reachable():
                done = self._replace(keys=[*names, *event.keys], args=arguments)
            if done:
                return after
        raise Conflict(f"{kind} {id} is being changed by others all the time; try again")

    def set_live(self, kind: Kind, namespace: str, id: str, live: Mapping[str, Any]) -> None:
        """Replaces the live fields; a record that has gone stays gone."""
        with reachable():
            self._live(
                keys=[keys.record_key(kind, namespace, id)],
                args=[json.dumps(live), keys.message(kind, namespace, id), keys.CHANGES],
            )

    def delete(self, kind: Kind, namespace: str, id: str) -> Document:
        """Deletes a record that nothing uses. Raises NotFound, InUse."""
        for _ in range(_TRIES):
            with reachable():
                raw, token = self.redis.hmget(keys.record_key(kind, namespace, id), "doc", "token")
            if raw is None:
                raise not_found(kind, id)
            document: Document = json.loads(raw)
            names = [
                keys.record_key(kind, namespace, id),
                keys.users_index(kind, namespace, id),
                *keys.indexes(kind, namespace, document),
            ]
            with reachable():
                noted = [*_noted(kind, namespace, id), keys.DELETED]
                outcome, *rest = self._delete(keys=names, args=[id, token, *noted])
            if outcome == b"used":
                users = ", ".join(member.decode() for member in rest[0])
                raise InUse(f"{kind} {id} is used by {users}; delete these first")
            if outcome == b"deleted":
                return document
        raise Conflict(f"{kind} {id} is being changed by others all the time; try again")

    def users(self, kind: Kind, namespace: str, id: str, limit: int = 100) -> list[str]:
        """Ids of the jobs that use a model or dataset, and of datasets derived from it; at most `limit`."""
        with reachable():
            return [
                member.decode()
                for member in self.redis.zrange(keys.users_index(kind, namespace, id), 0, limit - 1)
            ]

    def count(self, kind: Kind, namespace: str, state: str) -> int:
        """How many records are in a state."""
        with reachable():
            return int(self.redis.zcard(keys.state_index(kind, namespace, state)))

    def page(
        self,
        kind: Kind,
        namespace: str,
        *,
        limit: int,
        after: str | None = None,
        newest_first: bool = True,
        filters: Sequence[str] = (),
    ) -> Found:
        """Ids after `after` in all of the indexes that `filters` name (see `by_state` and its like)."""
        names = [
            keys.list_key(kind, namespace),
            *(f"{keys.list_key(kind, namespace)}:{filter}" for filter in filters),
        ]
        with reachable():
            smallest = min(names[1:] or names, key=self.redis.zcard)
        others = [key for key in names[1:] if key != smallest]
        ids: list[str] = []
        cursor = after
        while len(ids) <= limit:
            batch = self._walk(smallest, cursor, newest_first, max(limit + 1, 200))
            if not batch:
                break
            cursor = batch[-1]
            ids.extend(self._in_all(batch, others))
        return Found(ids[:limit], len(ids) > limit)

    def _walk(self, key: str, after: str | None, newest_first: bool, count: int) -> list[str]:
        with reachable():
            if newest_first:
                found = self.redis.zrevrangebylex(key, f"({after}" if after else "+", "-", 0, count)
            else:
                found = self.redis.zrangebylex(key, f"({after}" if after else "-", "+", 0, count)
        return [member.decode() for member in found]

    def _in_all(self, ids: list[str], indexes: Sequence[str]) -> list[str]:
        for key in indexes:
            with reachable():
                scores = self.redis.zmscore(key, ids)
            ids = [id for id, score in zip(ids, scores, strict=True) if score is not None]
            if not ids:
                break
        return ids

    def next_version(self, kind: Kind, namespace: str, name: str) -> int:
        """A number never given before to this name."""
        with reachable():
            return int(self.redis.hincrby(keys.versions_key(kind, namespace), name, 1))

    def resolve(
        self, kind: Kind, namespace: str, reference: str, *, usable: bool = False
    ) -> Document:
        """The record that an id, a name (its newest version) or `name@version` means. Raises NotFound.

        `usable`: a name means its newest version that was not rejected, where there is one.
        """
        name, _, version = reference.partition("@")
        if keys.is_id(kind, reference):
            return self.get(kind, namespace, reference)
        versions = self._versions(kind, namespace, name)
        with reachable():
            if version:
                ids = self.redis.zrangebyscore(versions, int(version), int(version))
            else:
                # The newest may go meanwhile.
                ids = self.redis.zrevrange(versions, 0, _VERSIONS_TRIED if usable else 4)
        found = self.get_many(kind, namespace, [id.decode() for id in ids])
        if not found:
            raise not_found(kind, reference, self._meant(kind, namespace, name))
        kept = (each for each in found if each["state"] != CheckState.REJECTED)
        return next(kept, found[0]) if usable else found[0]

    def _versions(self, kind: Kind, namespace: str, name: str) -> str:
        """The index of a name's versions; records of before there was one are entered first."""
        base = keys.list_key(kind, namespace)
        named, versions = f"{base}:{keys.by_name(name)}", f"{base}:{keys.by_version(name)}"
        with reachable(), self.redis.pipeline(transaction=True) as pipeline:
            complete = len(set(pipeline.zcard(named).zcard(versions).execute())) == 1
        cursor = None
        while not complete and (batch := self._walk(named, cursor, False, 1000)):
            cursor = batch[-1]
            for each in self.get_many(kind, namespace, batch):
                index = keys.indexes(kind, namespace, each)
                with reachable():
                    self._enter(
                        keys=[keys.record_key(kind, namespace, each["id"]), versions],
                        args=[each["id"], index[versions]],
                    )
        return versions

    def _meant(self, kind: Kind, namespace: str, name: str) -> str:
        """What somebody may have meant by a name or a version that is not there; empty where nothing is like it."""
        with reachable():
            newest = self.redis.zrevrange(
                self._versions(kind, namespace, name), 0, _VERSIONS_NAMED, withscores=True
            )
        if newest:
            known = ", ".join(str(int(version)) for _, version in newest[:_VERSIONS_NAMED])
            more = ", …" if len(newest) > _VERSIONS_NAMED else ""
            return f"{name!r} has version{'s' if len(newest) > 1 else ''} {known}{more}"
        ids = self._walk(keys.list_key(kind, namespace), None, True, _NAMES_COMPARED)
        names = {each["name"] for each in self.get_many(kind, namespace, ids)}
        near = difflib.get_close_matches(name, sorted(names), n=3)
        return f"did you mean {' or '.join(map(repr, near))}?" if near else ""

    def namespaces(self) -> set[str]:
        """Namespaces that have ever had a record."""
        with reachable():
            return {member.decode() for member in self.redis.smembers(keys.NAMESPACES)}


def _noted(kind: Kind, namespace: str, id: str, *, kept: bool = True) -> list[str]:
    """What every script that changes a record is told: whom to tell, and that its copy is no longer its last state."""
    return [keys.message(kind, namespace, id), keys.CHANGES, keys.UNSAVED if kept else ""]


def _used_otherwise() -> IdempotencyConflict:
    return IdempotencyConflict("this Idempotency-Key was used with another request; use a new key")


def not_found(kind: str, reference: str, meant: str = "") -> NotFound:
    """The same words whether it never was, is gone, or is another namespace's.

    An id of another kind is told by its form alone.
    """
    for other, prefix in keys.ID_PREFIX.items():
        if other != kind and reference.startswith(f"{prefix}_"):
            meant = meant or f"ids that begin with {prefix}_ are of {other}s"
    meant = f"{meant} " if meant.endswith("?") else f"{meant}; " if meant else ""
    return NotFound(
        f"there is no {kind} {shown(reference)!r} here; {meant}client.{kind}s.list(), `upweight {kind}s list` and "
        f"GET /v1/{kind}s list what there is"
    )


def _document(raw: Sequence[Any]) -> Document | None:
    doc, live, revision = raw
    if doc is None:
        return None
    return {**json.loads(doc), **(json.loads(live) if live else {}), "revision": int(revision)}
