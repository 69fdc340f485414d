"""Fits and factors that several jobs use: folders of objects named by the digest of all that went into them.

Jobs refer to a folder by an index of its users, the same by which datasets know theirs, and which comes back with the
records. The last user to let go moves the digest on to a new folder: so a folder that is being deleted is never found
by a job that has just come.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from redis import Redis

from service.storage import keys
from service.storage.objects import Objects
from service.storage.redis import reachable

ROOT = "shared"
_DOOMED = f"{keys.PREFIX}:doomed"

# KEYS: generation, users. ARGV: generation, user.
_HOLD = """
if (redis.call('GET', KEYS[1]) or '0') ~= ARGV[1] then return 0 end
redis.call('ZADD', KEYS[2], 0, ARGV[2])
return 1
"""
# KEYS: generation, users, doomed folders. ARGV: generation, user, folder.
_LET_GO = """
redis.call('ZREM', KEYS[2], ARGV[2])
if redis.call('ZCARD', KEYS[2]) > 0 then return 0 end
if (redis.call('GET', KEYS[1]) or '0') == ARGV[1] then redis.call('INCR', KEYS[1]) end
redis.call('SADD', KEYS[3], ARGV[3])
return 1
"""


def digest_of(value: Any) -> str:
    """The name of all that goes into something: of its JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def folder_of(namespace: str, name: str) -> str:
    """Where the objects of a name lie."""
    digest, _, generation = name.partition("-")
    return f"{ROOT}/{namespace}/{digest[:2]}/{digest}/{generation}"


class Shared:
    """All folders of all namespaces. A folder's name is its digest and its generation."""

    def __init__(self, redis: Redis, objects: Objects) -> None:
        self._redis: Any = redis
        self._objects = objects
        self._hold = redis.register_script(_HOLD)
        self._let_go = redis.register_script(_LET_GO)

    def name(self, namespace: str, digest: str) -> str:
        """The present folder of a digest."""
        with reachable():
            generation = self._redis.get(_generation(namespace, digest)) or b"0"
        return f"{digest}-{generation.decode()}"

    def hold(self, namespace: str, name: str, job: str) -> bool:
        """A job uses a folder; its record says so already. False: the folder has gone, there is a new name."""
        digest, _, generation = name.partition("-")
        names = [_generation(namespace, digest), keys.users_index("job", namespace, name)]
        with reachable():
            return bool(self._hold(keys=names, args=[generation, job]))

    def let_go(self, namespace: str, name: str, job: str) -> None:
        """A job uses a folder no more. With its last user its objects go."""
        digest, _, generation = name.partition("-")
        names = [_generation(namespace, digest), keys.users_index("job", namespace, name), _DOOMED]
        with reachable():
            gone = self._let_go(keys=names, args=[generation, job, folder_of(namespace, name)])
        if gone:
            self.sweep()

    def restore(self, namespace: str, name: str) -> None:
        """A folder is known again after Redis was lost: its digest has come to this generation at least."""
        digest, _, generation = name.partition("-")
        with reachable():
            if int(self._redis.get(_generation(namespace, digest)) or 0) < int(generation):
                self._redis.set(_generation(namespace, digest), generation)

    def sweep(self) -> None:
        """Deletes what nobody uses, also what another process has left half deleted."""
        with reachable():
            doomed = self._redis.smembers(_DOOMED)
        for folder in doomed:
            self._objects.delete_prefix(folder.decode())
            with reachable():
                self._redis.srem(_DOOMED, folder)


def _generation(namespace: str, digest: str) -> str:
    return f"{keys.PREFIX}:generation:{namespace}:{digest}"
