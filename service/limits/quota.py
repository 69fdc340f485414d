"""Stored bytes of a namespace: measured in the object storage now and then, and reserved before anything is stored.

What comes is reserved in one atomic step, grows as its bytes come where its size was not said, and is settled by what
was stored. A job reserves what its result will take when it is accepted; once it has ended, the next measuring counts
what it has stored, and its reservation ends. A reservation of a process that died ends by itself.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

from redis import Redis

from service.storage.keys import PREFIX, is_id, made_at
from service.storage.layout import namespace_prefixes
from service.storage.objects import Objects
from service.storage.records import Records
from service.storage.redis import reachable
from upweight.errors import QuotaExceeded
from upweight.schema import TERMINAL

MEASURED_SECONDS = 300
_MEASURED_AT_MOST_SECONDS = (
    10  # before somebody is refused, it is measured again unless that was so lately
)
_RECORDED_SECONDS = 60  # between a job's reservation and its record
RESERVED_SECONDS = 180  # without a word: longer than a sender may be silent
_RENEWED_SECONDS = 30
_STEP = 4 * 1024**2  # of a reservation that grows
_FOR_GOOD = "inf"

# KEYS: stored, reserved (id → bytes), until (id → when it ends), total of reserved.
# ARGV: id, bytes more, limit, seconds that it holds ('inf': a job's, made once, for as long as that goes on). Answers
# whether, and what is taken.
_RESERVE = """
local time = redis.call('TIME')
local now = tonumber(time[1])
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now)) do
  redis.call('DECRBY', KEYS[4], redis.call('HGET', KEYS[2], id) or 0)
  redis.call('HDEL', KEYS[2], id)
  redis.call('ZREM', KEYS[3], id)
end
local taken = tonumber(redis.call('GET', KEYS[1]) or 0) + tonumber(redis.call('GET', KEYS[4]) or 0)
local more = tonumber(ARGV[2])
if ARGV[4] == 'inf' and redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return {1, string.format('%.0f', taken)} end
if more > 0 and taken + more > tonumber(ARGV[3]) then return {0, string.format('%.0f', taken)} end
redis.call('HINCRBY', KEYS[2], ARGV[1], ARGV[2])
redis.call('INCRBY', KEYS[4], ARGV[2])
local ends = '+inf'
if ARGV[4] ~= 'inf' then ends = now + tonumber(ARGV[4]) end
redis.call('ZADD', KEYS[3], ends, ARGV[1])
return {1, string.format('%.0f', taken + more)}
"""

# KEYS: as above, then what was settled while somebody measures. ARGV: id, bytes stored.
_SETTLE = """
redis.call('DECRBY', KEYS[4], redis.call('HGET', KEYS[2], ARGV[1]) or 0)
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
if tonumber(ARGV[2]) > 0 then
  redis.call('INCRBY', KEYS[1], ARGV[2])
  if redis.call('EXISTS', KEYS[5]) == 1 then redis.call('INCRBY', KEYS[5], ARGV[2]) end
end
return 1
"""

# What was settled meanwhile may have been seen or not; counted twice, it is right again at the next measuring.
# KEYS: stored, what was settled meanwhile. ARGV: bytes found.
_MEASURED = """
redis.call('SET', KEYS[1], string.format('%.0f', tonumber(ARGV[1]) + tonumber(redis.call('GET', KEYS[2]) or 0)))
redis.call('DEL', KEYS[2])
return 1
"""


class Quota:
    """The bytes of all namespaces; `limit` None is no limit, and nothing is measured. Raises Unavailable."""

    def __init__(self, redis: Redis, objects: Objects, records: Records, limit: int | None) -> None:
        self._redis: Any = redis
        self._objects = objects
        self._records = records
        self._limit = limit
        self._reserve = redis.register_script(_RESERVE)
        self._settle = redis.register_script(_SETTLE)
        self._measured = redis.register_script(_MEASURED)

    def refuse_over(self, namespace: str) -> None:
        """Raises QuotaExceeded when the namespace stores, or has reserved, as much as it may."""
        self._take(namespace, uuid4().hex, 1, 0)

    def reserve(self, namespace: str, size: int) -> Reservation:
        """Room for what is to be stored. Raises QuotaExceeded, and has taken none then."""
        reservation = Reservation(self, namespace)
        reservation.cover(max(size, 1))  # an unknown size: there must be room at all
        return reservation

    def reserve_for_job(self, namespace: str, id: str, size: int) -> None:
        """Room for the result of a job, until it has ended and was measured; once, however often it is asked for.

        Raises QuotaExceeded.
        """
        self._take(namespace, id, max(size, 1), _FOR_GOOD)

    def give_back(self, namespace: str, id: str) -> None:
        """Ends a reservation of which nothing was stored."""
        self.settle(namespace, id, 0)

    def settle(self, namespace: str, id: str, size: int) -> None:
        """Ends a reservation of which so much was stored."""
        if self._limit is not None:
            with reachable():
                self._settle(
                    keys=[*_keys(namespace), _key("meanwhile", namespace)], args=[id, size]
                )

    def _take(self, namespace: str, id: str, more: int, seconds: int | str) -> None:
        if self._limit is None:
            return
        self._measure_if_old(namespace, MEASURED_SECONDS)
        taken = self._try(namespace, id, more, seconds)
        if taken is not None and self._measure_if_old(namespace, _MEASURED_AT_MOST_SECONDS):
            taken = self._try(namespace, id, more, seconds)
        if taken is not None:
            raise self._exceeded(taken, more)

    def _try(self, namespace: str, id: str, more: int, seconds: int | str) -> int | None:
        """What is taken already, where there is no room; None where there was."""
        with reachable():
            done, taken = self._reserve(
                keys=_keys(namespace), args=[id, more, self._limit or 0, seconds]
            )
        return None if done else int(taken)

    def _exceeded(self, taken: int, more: int) -> QuotaExceeded:
        coming = f", and {more} more would be stored" if more > 1 else ""
        return QuotaExceeded(
            f"this namespace stores {taken} bytes, with what is under way{coming}; its limit is {self._limit}. Delete "
            "jobs whose results are no longer needed, or ask the operator for more"
        )

    def measure_again(self, namespace: str) -> None:
        """After something was deleted."""
        if self._limit is not None:
            with reachable():
                self._redis.delete(_key("measured", namespace))

    def _measure_if_old(self, namespace: str, seconds: float) -> bool:
        """Measures unless that was begun less than so many seconds ago, by anyone; says whether it did."""
        at = _key("measured", namespace)
        with reachable():
            before = self._redis.get(at)
            if before is not None and abs(time.time() - float(before)) < seconds:
                return False
            self._redis.set(at, time.time())
            self._redis.set(_key("meanwhile", namespace), 0)
            reserved = [each.decode() for each in self._redis.hkeys(_key("reserved", namespace))]
        ended = self._ended(namespace, [id for id in reserved if is_id("job", id)])
        # In a thread of its own: a reservation also grows inside an upload, and what an object is written from can't
        # read objects in the same thread.
        with ThreadPoolExecutor(1) as thread:
            found = thread.submit(self._stored, namespace).result()
        with reachable():
            self._measured(
                keys=[_key("stored", namespace), _key("meanwhile", namespace)], args=[found]
            )
        for id in self._ended(namespace, ended):  # some may have begun again meanwhile
            self.give_back(namespace, id)
        return True

    def _stored(self, namespace: str) -> int:
        """Bytes that lie in the object storage now."""
        prefixes = namespace_prefixes(namespace)
        return sum(meta.size for prefix in prefixes for meta in self._objects.walk(prefix))

    def _ended(self, namespace: str, ids: list[str]) -> list[str]:
        """Jobs that store nothing more: they had ended, or gone, before it was measured."""
        found = {each["id"]: each for each in self._records.get_many("job", namespace, ids)}
        recorded_by = time.time() - _RECORDED_SECONDS
        return [
            id
            for id in ids
            if (found[id]["state"] in TERMINAL if id in found else made_at(id) < recorded_by)
        ]


class Reservation:
    """Room for one upload, used by one thread at a time."""

    def __init__(self, quota: Quota, namespace: str) -> None:
        self._quota = quota
        self._namespace = namespace
        self._id = f"upload-{uuid4().hex}"
        self._size = 0
        self._renewed = 0.0

    def cover(self, size: int) -> None:
        """Sees that so many bytes are reserved, before they are stored. Raises QuotaExceeded."""
        more = size - self._size
        if more > 0:
            self._grow(more)
        elif time.monotonic() - self._renewed > _RENEWED_SECONDS:
            self._quota._take(self._namespace, self._id, 0, RESERVED_SECONDS)
            self._renewed = time.monotonic()

    def _grow(self, more: int) -> None:
        # In steps, so that a body of unknown size needs few; near the limit exactly.
        steps = [_STEP, more] if 1 < more < _STEP and self._size else [more]
        for last, step in enumerate(steps, 1):
            try:
                self._quota._take(self._namespace, self._id, step, RESERVED_SECONDS)
            except QuotaExceeded:
                if last == len(steps):
                    raise
                continue
            self._size += step
            self._renewed = time.monotonic()
            return

    def settle(self, size: int) -> None:
        """So much was stored."""
        self._quota.settle(self._namespace, self._id, size)

    def give_back(self) -> None:
        """Nothing was."""
        self.settle(0)


def stored_and_reserved(redis: Redis, namespace: str) -> tuple[int, dict[str, int]]:
    """Bytes that are counted as stored, and those that are reserved, by upload or job."""
    connection: Any = redis
    with reachable():
        stored = connection.get(_key("stored", namespace))
        reserved = connection.hgetall(_key("reserved", namespace))
    return int(stored or 0), {id.decode(): int(size) for id, size in reserved.items()}


def _keys(namespace: str) -> list[str]:
    return [_key(name, namespace) for name in ("stored", "reserved", "until", "total")]


def _key(name: str, namespace: str) -> str:
    return f"{PREFIX}:quota:{name}:{namespace}"
