"""The tenants of a chaotic run: each has a namespace, a key and a quota, and uploads bytes beside its jobs."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx2
import redis

from service.auth import Keys, Role
from service.local.background import Running
from service.storage.layout import blob_path
from service.storage.objects import Objects
from tests.faults.chaos.kinds import register
from upweight import Client

NAMES = ("ants", "bees")
CALM = "calm"  # whose jobs nothing happens to
QUOTA = 6 * 1024**2
UPLOADS_AT_ONCE = 2
SETTINGS = {
    "UPWEIGHT_NAMESPACE_BYTES": str(QUOTA),
    "UPWEIGHT_NAMESPACE_UPLOADS": str(UPLOADS_AT_ONCE),
}


@dataclass
class Tenant:
    """One namespace, with the SDK's client and a plain one."""

    name: str
    key: str
    client: Client
    http: Any
    registered: set[str]  # digests of its model and rows
    blobs: set[str] = field(default_factory=set)  # of what it was told is stored, beside these


def tenants_of(
    service: Running, objects: Objects, names: Sequence[str], stack: ExitStack
) -> list[Tenant]:
    """Each with a key, and the model and rows registered."""
    found = []
    with redis.Redis.from_url(service.redis_url) as connection:
        keys = [Keys(connection).create(name, Role.WRITE, "chaos")[1] for name in names]
    for name, key in zip(names, keys, strict=True):
        client = stack.enter_context(Client(service.url, key, retries=8))
        http = stack.enter_context(
            httpx2.Client(
                base_url=service.url,
                timeout=60,
                trust_env=False,
                headers={"Authorization": f"Bearer {key}"},
            )
        )
        register(client)
        found.append(Tenant(name, key, client, http, set(_blobs(objects, name))))
    return found


class Uploads:
    """Bytes that come in chunks, of which nobody says how many there will be: more at once than a tenant may."""

    def __init__(self, tenants: Sequence[Tenant], objects: Objects, choice: random.Random) -> None:
        self._tenants, self._objects, self._choice = tenants, objects, choice
        self.answers: Counter[str] = Counter()
        self.losses: list[str] = []
        self._unknown: set[str] = set()  # nobody heard what became of them

    def burst(self) -> None:
        """Three at once by one tenant. Some of what it had goes first, so that there is room at times."""
        tenant = self._choice.choice(self._tenants)
        self._clear_away(tenant)
        contents = [
            self._choice.randbytes(self._choice.randrange(1, 1 << 21))
            for _ in range(UPLOADS_AT_ONCE + 1)
        ]
        with ThreadPoolExecutor(len(contents)) as pool:
            list(pool.map(lambda content: self._one(tenant, content), contents))

    def _clear_away(self, tenant: Tenant) -> None:
        """As an operator does, for blobs have no owner who could delete them: straight in the storage."""
        for digest in self._choice.sample(sorted(tenant.blobs), len(tenant.blobs) // 2):
            self._objects.delete([blob_path(tenant.name, digest)])
            tenant.blobs.discard(digest)

    def _one(self, tenant: Tenant, content: bytes) -> None:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        try:
            answer = tenant.http.put(f"/v1/blobs/{digest}", content=_pieces(content))
        except Exception:  # the front end was killed
            self._unknown.add(digest)
            self.answers["broken off"] += 1
            return
        self.answers[str(answer.status_code)] += 1
        if answer.status_code == 201:
            tenant.blobs.add(digest)
        elif answer.status_code == 503:
            self._unknown.add(digest)  # the storage may have it, and its answer was lost
        elif answer.status_code not in (403, 429):
            self.losses.append(f"an upload was answered {answer.status_code}: {answer.text[:300]}")

    def judge(self) -> None:
        """What was said to be stored is there, and what was refused is not."""
        for tenant in self._tenants:
            there = set(_blobs(self._objects, tenant.name))
            known = tenant.blobs | tenant.registered
            self.losses += [f"{tenant.name} lacks {digest}" for digest in known - there]
            self.losses += [
                f"a refused upload of {tenant.name} left {digest}"
                for digest in there - known - self._unknown
            ]


def _pieces(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), 1 << 16):
        yield content[start : start + (1 << 16)]


def _blobs(objects: Objects, namespace: str) -> Iterator[str]:
    """The digests that they are stored under."""
    for meta in objects.walk(f"blobs/{namespace}"):
        yield f"sha256:{meta.path.rpartition('/')[2]}"
