"""Leases: which worker has a record in hand. A lease that is not renewed in time is lost, and with it the task."""

from __future__ import annotations

from redis import Redis

from service.storage.keys import PREFIX
from service.storage.redis import reachable

# KEYS: lease. ARGV: holder, milliseconds.
_RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
"""
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""


class Leases:
    """Takes, renews and gives back leases; time is Redis's, so clocks of machines do not matter."""

    def __init__(self, redis: Redis, seconds: float) -> None:
        self._redis = redis
        self._milliseconds = int(seconds * 1000)
        self._renew = redis.register_script(_RENEW)
        self._release = redis.register_script(_RELEASE)

    def take(self, id: str, holder: str) -> bool:
        """Takes the lease of a record unless somebody has it."""
        with reachable():
            return bool(self._redis.set(_key(id), holder, px=self._milliseconds, nx=True))

    def renew(self, id: str, holder: str) -> bool:
        """Prolongs a lease; False when it was lost meanwhile."""
        with reachable():
            return bool(self._renew(keys=[_key(id)], args=[holder, self._milliseconds]))

    def release(self, id: str, holder: str) -> None:
        """Gives a lease back if it is still held."""
        with reachable():
            self._release(keys=[_key(id)], args=[holder])

    def held(self, id: str) -> bool:
        """Whether some worker has the record in hand."""
        with reachable():
            return bool(self._redis.exists(_key(id)))


def _key(id: str) -> str:
    return f"{PREFIX}:lease:{id}"
