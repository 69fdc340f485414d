"""The secrets that webhooks are signed with: a namespace's own, else the operator's for all, else one made at need.

They are kept as they are, not as hashes: signing needs them. Whoever can read Redis can sign.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from typing import Any

from redis import Redis

from service.storage.keys import PREFIX
from service.storage.redis import reachable
from upweight import webhooks

_SECRETS = f"{PREFIX}:webhook-secrets"  # namespace -> {"secret", "before", "until"}
_SECRET_BYTES = 32
OVERLAP_SECONDS = 86_400  # for so long webhooks carry the signature of the secret before, too


class WebhookSecrets:
    """The secrets of all namespaces."""

    def __init__(self, redis: Redis, of_all: str | None) -> None:
        self._redis: Any = redis
        self._of_all = of_all

    def of(self, namespace: str) -> list[str]:
        """What to sign with, the newest first: a second one for a day after a rotation."""
        own = self._own(namespace)
        if own is None and self._of_all is not None:
            return [self._of_all]
        if own is None:
            self._set_new(namespace)
            own = self._own(namespace) or {}
        before = own.get("before")
        return [own["secret"], *([before] if before and own["until"] > time.time() else [])]

    def rotate(self, namespace: str) -> str:
        """A new secret for a namespace; the one before goes on for a day."""
        before = self.of(namespace)[0]
        fresh = new_secret()
        entry = {"secret": fresh, "before": before, "until": time.time() + OVERLAP_SECONDS}
        with reachable():
            self._redis.hset(_SECRETS, namespace, json.dumps(entry))
        return fresh

    def _own(self, namespace: str) -> dict[str, Any] | None:
        with reachable():
            raw = self._redis.hget(_SECRETS, namespace)
        return json.loads(raw) if raw else None

    def _set_new(self, namespace: str) -> None:
        with reachable():
            self._redis.hsetnx(_SECRETS, namespace, json.dumps({"secret": new_secret()}))


def new_secret() -> str:
    """A secret as Standard Webhooks writes it."""
    return webhooks.PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
