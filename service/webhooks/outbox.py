"""Events that are to be told. An event is written in one step with the change of its job, so that none is lost;
it stays until it has been heard, has been tried for too long, or its job is deleted.

A job's deliveries are one hash. What is due is a sorted set for each namespace, by Redis's time in milliseconds: a
claim moves an entry into the future, so that a sender which dies with it loses it to another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis
from ulid import ULID

from service.storage.announcements import Announcement
from service.storage.keys import PREFIX, Document
from service.storage.redis import reachable

NAMESPACES = f"{PREFIX}:webhooks:namespaces"  # those in which something may be due
KEPT_SECONDS = 7 * 86_400

# KEYS: due, namespaces. ARGV: milliseconds of the claim, count, namespace.
_CLAIM = """
if redis.call('ZCARD', KEYS[1]) == 0 then redis.call('SREM', KEYS[2], ARGV[3]) return {} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])
for _, member in ipairs(found) do redis.call('ZADD', KEYS[1], now + ARGV[1], member) end
return found
"""
# A job that was deleted meanwhile has no deliveries, and gets none.
# KEYS: due, deliveries. ARGV: member, delivery id, delivery, milliseconds until the next try ('' for none).
_NOTE = """
if redis.call('HEXISTS', KEYS[2], ARGV[2]) == 0 then redis.call('ZREM', KEYS[1], ARGV[1]) return 0 end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
if ARGV[4] == '' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  local time = redis.call('TIME')
  redis.call('ZADD', KEYS[1], time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[4], ARGV[1])
end
return 1
"""


@dataclass(frozen=True)
class Claim:
    """A delivery that this process is to try now."""

    namespace: str
    job_id: str
    delivery: Document

    @property
    def id(self) -> str:
        """The same for every try."""
        return str(self.delivery["id"])


class Outbox:
    """What is to be told in all namespaces."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis
        self._claim = redis.register_script(_CLAIM)
        self._note = redis.register_script(_NOTE)

    def namespaces(self) -> list[str]:
        """Those in which something may be due."""
        with reachable():
            return sorted(member.decode() for member in self._redis.smembers(NAMESPACES))

    def claim(self, namespace: str, count: int, seconds: float) -> list[Claim]:
        """Up to `count` deliveries that are due, for this process alone as long as the claim lasts."""
        with reachable():
            members = self._claim(
                keys=[_due_key(namespace), NAMESPACES],
                args=[int(seconds * 1000), count, namespace],
            )
        found = [self._claimed(namespace, member.decode()) for member in members]
        return [claim for claim in found if claim is not None]

    def _claimed(self, namespace: str, member: str) -> Claim | None:
        job_id, _, id = member.partition(" ")
        with reachable():
            raw = self._redis.hget(_deliveries_key(namespace, job_id), id)
            if raw is None:  # its job was deleted
                self._redis.zrem(_due_key(namespace), member)
                return None
        return Claim(namespace, job_id, json.loads(raw))

    def note(self, claim: Claim, changes: Mapping[str, Any], again_in: float | None) -> None:
        """Writes what a try gave, and ends the delivery or puts it back for later."""
        delivery = {**claim.delivery, **changes}
        with reachable():
            self._note(
                keys=[_due_key(claim.namespace), _deliveries_key(claim.namespace, claim.job_id)],
                args=[
                    f"{claim.job_id} {claim.id}",
                    claim.id,
                    json.dumps(delivery),
                    "" if again_in is None else int(again_in * 1000),
                ],
            )

    def of_job(self, namespace: str, job_id: str) -> list[Document]:
        """A job's deliveries, the oldest first."""
        with reachable():
            found = [
                json.loads(raw) for raw in self._redis.hvals(_deliveries_key(namespace, job_id))
            ]
        return sorted(found, key=lambda delivery: str(delivery["id"]))

    def forget(self, namespace: str, job_id: str) -> None:
        """Ends all deliveries of a job that is deleted."""
        with reachable():
            self._redis.delete(_deliveries_key(namespace, job_id))


def announcement(namespace: str, before: Document, after: Document) -> Announcement:
    """What is to be told of a job's change, if its webhook asks for that."""
    webhook = after.get("request", {}).get("webhook")
    state = after["state"]
    if webhook is None or state == before["state"] or state not in webhook["events"]:
        return Announcement()
    id = f"msg_{ULID()}"
    at = after["finished_at"] or after["started_at"]
    delivery = {
        "id": id,
        "event": f"job.{state}",
        "state": "pending",
        "created_at": at,
        "next_try_at": at,
        "tries": 0,
        "url": webhook["url"],
        "body": json.dumps(
            {"type": f"job.{state}", "timestamp": at, "data": _event(after)}, ensure_ascii=True
        ),
    }
    return Announcement(
        keys=(_deliveries_key(namespace, after["id"]), _due_key(namespace), NAMESPACES),
        arguments=(id, json.dumps(delivery), KEPT_SECONDS, f"{after['id']} {id}", namespace),
    )


def _event(job: Document) -> Document:
    fields = ("id", "state", "model_id", "labels", "attempt", "created_at", "started_at")
    return {
        **{name: job[name] for name in fields},
        "kind": job["request"]["kind"],
        "finished_at": job["finished_at"],
        "problem": job["problem"],
    }


def _due_key(namespace: str) -> str:
    return f"{PREFIX}:webhooks:due:{namespace}"


def _deliveries_key(namespace: str, job_id: str) -> str:
    return f"{PREFIX}:webhooks:of:{namespace}:{job_id}"
