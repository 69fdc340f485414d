"""Who may do what: keys, kept as hashes, each of one namespace and one role.

A key reads `uwk_<id>_<secret>`. Without any key set the service is open to its own machine: loopback only, under a
loopback name (a web page that rebinds its name to 127.0.0.1 stays outside), and to no page of another origin that a
browser on this machine shows. Such a page can't read answers, but it could have requests sent.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from redis import Redis

from service.storage.keys import PREFIX
from service.storage.objects import Objects
from service.storage.redis import reachable
from upweight.errors import Forbidden, InvalidRequest, Unauthorized, UnsupportedMediaType
from upweight.schema.base import NAME_PATTERN

DEFAULT_NAMESPACE = "default"
HOW_TO_CREATE = "python -m service.keys create --namespace NAME --role write --name WHOSE"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_OWN_SITES = ("same-origin", "none")  # `none`: typed by the user, or no browser
# What a page may have sent elsewhere without asking first.
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")
_KEYS = f"{PREFIX}:keys"
_FOLDER = "keys"
_ID = re.compile(r"^[0-9a-f]{12}$")
_SHAPE = re.compile(r"^uwk_([0-9a-f]{12})_([0-9a-f]{48})$")


class Role(StrEnum):
    """Each may do what the one before it may."""

    READ = "read"  # see and download
    WRITE = "write"  # upload, register, compute, delete
    ADMIN = "admin"  # see and change by what webhooks are signed


_ORDER = list(Role)


@dataclass(frozen=True)
class Caller:
    """Who makes a request."""

    namespace: str
    role: Role
    key_id: str | None = None

    def has(self, role: Role) -> bool:
        """Whether the caller has at least this role."""
        return _ORDER.index(self.role) >= _ORDER.index(role)

    def require(self, role: Role) -> None:
        """Raises Forbidden unless the caller has at least this role."""
        if not self.has(role):
            raise Forbidden(
                f"this needs a key of role '{role}', and the key that was sent has '{self.role}'"
            )


@dataclass(frozen=True)
class Key:
    """What is known of a key. The secret is not: only its hash was kept."""

    id: str
    namespace: str
    role: Role
    name: str
    created_at: str


class Keys:
    """The keys of all namespaces, in Redis. With `objects`, each has a copy there that outlives Redis: its hash."""

    def __init__(self, redis: Redis, objects: Objects | None = None) -> None:
        self._redis: Any = redis
        self._objects = objects

    def create(self, namespace: str, role: Role, name: str) -> tuple[Key, str]:
        """A new key, and the text that is shown this once. Raises InvalidRequest, Unavailable."""
        for what, text in (("namespace", namespace), ("name", name)):
            if not re.fullmatch(NAME_PATTERN, text):
                raise InvalidRequest(
                    f"{what} {text!r} must be 1 to 128 letters, digits, '.', '_' or '-', "
                    "and begin with a letter or digit"
                )
        key = Key(secrets.token_hex(6), namespace, role, name, datetime.now(UTC).isoformat())
        secret = secrets.token_hex(24)
        stored = json.dumps({**vars(key), "hash": _hash(secret)})
        if self._objects is not None:
            self._objects.put(_copy_path(key.id), stored.encode())
        with reachable():
            self._redis.hset(_KEYS, key.id, stored)
        return key, f"uwk_{key.id}_{secret}"

    def list(self) -> list[Key]:
        """All keys, the oldest first."""
        with reachable():
            found = [json.loads(raw) for raw in self._redis.hvals(_KEYS)]
        return sorted((_key(stored) for stored in found), key=lambda key: key.created_at)

    def revoke(self, id: str) -> bool:
        """Ends a key from the next request on; says whether there was one. Raises Unavailable: do it again then."""
        if not _ID.fullmatch(id):
            return False
        with reachable():
            known = bool(self._redis.hdel(_KEYS, id))
        if self._objects is not None:
            known |= self._objects.head(_copy_path(id)) is not None
            self._objects.delete([_copy_path(id)])
        return known

    def restore(self, *, dry_run: bool = False) -> int:
        """Brings back keys that Redis has lost; answers how many. A revoked one has no copy."""
        if self._objects is None:
            return 0
        lost = []
        for meta in self._objects.walk(_FOLDER):
            id = meta.path.removeprefix(f"{_FOLDER}/").removesuffix(".json")
            with reachable():
                if not self._redis.hexists(_KEYS, id):
                    lost.append(id)
        for id in [] if dry_run else lost:
            stored = self._objects.get(_copy_path(id))
            with reachable():
                self._redis.hsetnx(_KEYS, id, stored)
        return len(lost)

    def any(self) -> bool:
        """Whether a key is set, so that requests need one."""
        with reachable():
            return int(self._redis.hlen(_KEYS)) > 0

    def caller(self, text: str) -> Caller:
        """Whose key this is. Raises Unauthorized, with the same words whatever is wrong with it."""
        match = _SHAPE.fullmatch(text)
        id, secret = match.groups() if match else ("", "")
        with reachable():
            raw = self._redis.hget(_KEYS, id)
        stored = json.loads(raw) if raw else {"hash": ""}
        # Compared even when there is no such key: the time tells nothing.
        if not hmac.compare_digest(stored["hash"], _hash(secret)):
            raise Unauthorized("the key is not known here, or has been revoked")
        key = _key(stored)
        return Caller(key.namespace, key.role, key.id)


def looks_like_a_key(text: str) -> bool:
    """Whether a key may read so; whether there is such a key only `Keys` knows."""
    return _SHAPE.fullmatch(text) is not None


def _copy_path(id: str) -> str:
    return f"{_FOLDER}/{id}.json"


def _hash(secret: str) -> str:
    # 192 random bits need no salt and no slow hash.
    return hashlib.sha256(secret.encode()).hexdigest()


def _key(stored: dict[str, Any]) -> Key:
    return Key(
        stored["id"],
        stored["namespace"],
        Role(stored["role"]),
        stored["name"],
        stored["created_at"],
    )


def authenticate(
    keys: Keys, bearer: str | None, listens_on: str, method: str, headers: Mapping[str, str]
) -> Caller:
    """The caller of a request with these headers, names in lower case.

    Raises Unauthorized, and without a key Forbidden or UnsupportedMediaType for what a stranger's page may send.
    """
    if bearer is not None:
        return keys.caller(bearer)
    if keys.any():
        raise Unauthorized("send a key: 'Authorization: Bearer uwk_…'")
    if not is_loopback(listens_on):
        raise Unauthorized(
            f"no key is set, and the service listens beyond this machine; {HOW_TO_CREATE}"
        )
    host = headers.get("host", "localhost")
    if not is_loopback(_host_of(host)):
        raise Unauthorized(
            "without a key the service answers to 'localhost' and loopback addresses only, not to other names; "
            + HOW_TO_CREATE
        )
    if method not in _SAFE_METHODS:
        _refuse_other_origins(host, method, headers)
    return Caller(DEFAULT_NAMESPACE, Role.ADMIN)


def _refuse_other_origins(host: str, method: str, headers: Mapping[str, str]) -> None:
    """Raises Forbidden for what a page of another origin makes a browser send; UnsupportedMediaType for forms.

    Browsers send `Origin` with every request that is not GET or HEAD, and `Sec-Fetch-Site` to loopback addresses; a
    page can forge neither. Clients that are no browsers send neither.
    """
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    scheme, _, authority = (origin or f"http://{host}").partition("://")
    if (
        site not in _OWN_SITES
        or scheme not in ("http", "https")
        or authority.lower() != host.lower()
    ):
        raise Forbidden(
            f"a web page of another origin ({origin or site}) asked for this; without a key the service changes "
            f"nothing for others' pages. Open the service's own pages at http://{host}, or set a key: {HOW_TO_CREATE}"
        )
    kind = media_type(headers)
    if method == "POST" and kind in _FORMS:
        raise UnsupportedMediaType(
            f"the body is of type {kind!r}, which web pages of strangers may send; "
            "send 'Content-Type: application/json'"
        )


def media_type(headers: Mapping[str, str]) -> str:
    """What the body is said to be, without parameters and in lower case; empty where nothing is said."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def is_loopback(host: str) -> bool:
    """Whether an address reaches this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_of(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()
