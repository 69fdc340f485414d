"""Stored bytes of a namespace: measured in the object storage now and then, and reserved before anything is stored.

What comes is reserved in one atomic step, grows as its bytes come where its size was not said, and is settled by what
was stored. What is to come by a presigned URL is reserved when the URL is made, for as long as bytes may come by it,
and settled when they are verified. A job reserves what its result will take when it is accepted; once it has ended, the
next measuring counts what it has stored, and its reservation ends. A reservation of a process that died ends by itself.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from uuid import uuid4

from redis import Redis

from service.storage.keys import PREFIX, is_id, made_at
from service.storage.layout import namespace_prefixes, uploads_prefix
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
SIGNED_SECONDS = 3600  # that a presigned URL is good for
_COMPLETED_SECONDS = 900  # for what has begun to come as its URL ended, and is to be verified then
_RENEWED_SECONDS = 30
_MEASURING_SECONDS = 3600  # after which one that measures is taken for dead
_STEP = 4 * 1024**2  # of a reservation that grows
_FOR_GOOD = "inf"
_SIGNED = "signed-"  # begins the ids of what is to come by a presigned URL

# Whoever measures holds a count of its own of what is settled meanwhile: two may measure at once.
_ADD_STORED = """
local function add_stored(size)
  redis.call('INCRBY', KEYS[1], size)
  for _, measuring in ipairs(redis.call('HKEYS', KEYS[5])) do
    redis.call('HINCRBY', KEYS[5], measuring, size)
  end
end
"""

# A reservation grows to the bytes asked for, and never shrinks or ends earlier: asked for twice, it is made once. Bytes
# of a presigned URL that was never completed may lie in the storage: they are taken for stored until it is measured.
# KEYS: stored, reserved (id → bytes), until (id → when it ends), total of reserved, who measures (id → what was settled
# meanwhile). ARGV: id, bytes, limit, seconds that it holds ('inf': a job's, for as long as that goes on), how ids of
# presigned URLs begin. Answers whether, what is taken, and how much more it would be.
_RESERVE = (
    _ADD_STORED
    + """
local time = redis.call('TIME')
local now = tonumber(time[1])
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now)) do
  local held = redis.call('HGET', KEYS[2], id) or 0
  redis.call('DECRBY', KEYS[4], held)
  if string.sub(id, 1, #ARGV[5]) == ARGV[5] then add_stored(held) end
  redis.call('HDEL', KEYS[2], id)
  redis.call('ZREM', KEYS[3], id)
end
local taken = tonumber(redis.call('GET', KEYS[1]) or 0) + tonumber(redis.call('GET', KEYS[4]) or 0)
local more = math.max(0, tonumber(ARGV[2]) - tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or 0))
local whole = string.format('%.0f', more)
if more > 0 and taken + more > tonumber(ARGV[3]) then return {0, string.format('%.0f', taken), whole} end
redis.call('HINCRBY', KEYS[2], ARGV[1], whole)
redis.call('INCRBY', KEYS[4], whole)
local ends = '+inf'
if ARGV[4] ~= 'inf' then ends = now + tonumber(ARGV[4]) end
redis.call('ZADD', KEYS[3], 'GT', ends, ARGV[1])
return {1, string.format('%.0f', taken + more), whole}
"""
)

# KEYS: as above. ARGV: id, bytes stored.
_SETTLE = (
    _ADD_STORED
    + """
redis.call('DECRBY', KEYS[4], redis.call('HGET', KEYS[2], ARGV[1]) or 0)
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
if tonumber(ARGV[2]) > 0 then add_stored(ARGV[2]) end
return 1
"""
)

# What was settled meanwhile may have been seen or not: it is counted, twice perhaps, and so that nobody is refused for
# that, whoever finds no room next may measure at once. Where the count of what was settled is gone, what was found is
# old, and changes nothing.
# KEYS: stored, who measures, when that was begun last. ARGV: who, bytes found, a time so long ago that it may be again.
_MEASURED = """
local meanwhile = redis.call('HGET', KEYS[2], ARGV[1])
if not meanwhile then return 0 end
redis.call('SET', KEYS[1], string.format('%.0f', tonumber(ARGV[2]) + tonumber(meanwhile)))
redis.call('HDEL', KEYS[2], ARGV[1])
if tonumber(meanwhile) > 0 then redis.call('SET', KEYS[3], ARGV[3], 'XX') end
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

    def reserve(self, namespace: str, size: int) -> Reservation:
        """Room for what is to be stored. Raises QuotaExceeded, and has taken none then."""
        reservation = Reservation(self, namespace, f"upload-{uuid4().hex}", RESERVED_SECONDS)
        reservation.cover(max(size, 1))  # an unknown size: there must be room at all
        return reservation

    def reservation_by_url(self, namespace: str, digest: str) -> Reservation:
        """What is held for the bytes of a digest that come by presigned URLs: one, however many URLs are made."""
        id = f"{_SIGNED}{digest.removeprefix('sha256:')}"
        return Reservation(self, namespace, id, SIGNED_SECONDS + _COMPLETED_SECONDS)

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
                self._settle(keys=_keys(namespace), args=[id, size])

    def _take(self, namespace: str, id: str, size: int, seconds: int | str) -> None:
        if self._limit is None:
            return
        self._measure_if_old(namespace, MEASURED_SECONDS)
        full = self._try(namespace, id, size, seconds)
        if full is not None and self._measure_if_old(namespace, _MEASURED_AT_MOST_SECONDS, id):
            full = self._try(namespace, id, size, seconds)
        if full is not None:
            raise self._exceeded(*full)

    def _try(
        self, namespace: str, id: str, size: int, seconds: int | str
    ) -> tuple[int, int] | None:
        """What is taken already and how much more it would be, where there is no room; None where there was."""
        with reachable():
            done, taken, more = self._reserve(
                keys=_keys(namespace), args=[id, size, self._limit or 0, seconds, _SIGNED]
            )
        return None if done else (int(taken), int(more))

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

    def _measure_if_old(self, namespace: str, seconds: float, reserving: str = "") -> bool:
        """Measures unless that was begun less than so many seconds ago, by anyone; says whether it did.

        What has come already for the reservation that is being made is not counted beside it.
        """
        at, who = _key("measured", namespace), _key("measuring", namespace)
        measuring = f"{time.time():.0f}-{uuid4().hex}"
        with reachable():
            before = self._redis.get(at)
            if before is not None and abs(time.time() - float(before)) < seconds:
                return False
            self._redis.set(at, time.time())
            self._redis.hset(who, measuring, 0)
            dead = [
                each
                for each in self._redis.hkeys(who)
                if float(each.partition(b"-")[0]) < time.time() - _MEASURING_SECONDS
            ]
            if dead:
                self._redis.hdel(who, *dead)
            reserved = [each.decode() for each in self._redis.hkeys(_key("reserved", namespace))]
        ended = self._ended(namespace, [id for id in reserved if is_id("job", id)])
        # In a thread of its own: a reservation also grows inside an upload, and what an object is written from can't
        # read objects in the same thread.
        with ThreadPoolExecutor(1) as thread:
            found = thread.submit(self._stored, namespace, reserving).result()
        with reachable():
            self._measured(
                keys=[_key("stored", namespace), who, at],
                args=[measuring, found, time.time() - _MEASURED_AT_MOST_SECONDS],
            )
        for id in self._ended(namespace, ended):  # some may have begun again meanwhile
            self.give_back(namespace, id)
        return True

    def _stored(self, namespace: str, reserving: str) -> int:
        """Bytes that lie in the object storage now; of what came by presigned URLs, what nothing is reserved for."""
        prefixes = namespace_prefixes(namespace)
        stored = sum(meta.size for prefix in prefixes for meta in self._objects.walk(prefix))
        before = self._held(namespace)
        come = {
            f"{_SIGNED}{meta.path.rpartition('/')[2]}": meta.size
            for meta in self._objects.walk(uploads_prefix(namespace))
        }
        come.pop(reserving, None)
        held = before | self._held(namespace)  # some were made or settled meanwhile
        return stored + sum(max(0, size - held.get(id, 0)) for id, size in come.items())

    def _held(self, namespace: str) -> dict[str, int]:
        """Bytes of the reservations that have not ended."""
        with reachable():
            now = self._redis.time()[0]
            going = self._redis.zrangebyscore(_key("until", namespace), f"({now}", "+inf")
            sizes = self._redis.hmget(_key("reserved", namespace), going) if going else []
        return {id.decode(): int(size or 0) for id, size in zip(going, sizes, strict=True)}

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
    """Room for one upload, used by one thread at a time; it ends `seconds` after the last word."""

    def __init__(self, quota: Quota, namespace: str, id: str, seconds: int) -> None:
        self._quota = quota
        self._namespace = namespace
        self._id, self._seconds = id, seconds
        self._size = 0
        self._renewed = 0.0

    def cover(self, size: int) -> None:
        """Sees that so many bytes are reserved, before they are stored. Raises QuotaExceeded."""
        more = size - self._size
        if more > 0:
            self._grow(more)
        elif time.monotonic() - self._renewed > _RENEWED_SECONDS:
            self._take(self._size)

    def _grow(self, more: int) -> None:
        # In steps, so that a body of unknown size needs few; near the limit exactly.
        if 1 < more < _STEP and self._size:
            with suppress(QuotaExceeded):
                self._take(self._size + _STEP)
                return
        self._take(self._size + more)

    def _take(self, size: int) -> None:
        self._quota._take(self._namespace, self._id, size, self._seconds)
        self._size, self._renewed = size, time.monotonic()

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
    return [_key(name, namespace) for name in ("stored", "reserved", "until", "total", "measuring")]


def _key(name: str, namespace: str) -> str:
    return f"{PREFIX}:quota:{name}:{namespace}"
