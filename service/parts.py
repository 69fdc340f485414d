"""What the front end is made of: opened when it starts, handed to every route, closed when it ends."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from redis import Redis

from service.auth import Keys
from service.changes import Changes
from service.limits.quota import Quota
from service.limits.rate import AtOnce, Rate
from service.settings import Settings
from service.storage.objects import Objects
from service.storage.redis import connect
from service.stores import Stores
from service.webhooks.courier import Courier
from service.webhooks.destination import Policy
from service.webhooks.outbox import Outbox
from service.webhooks.secrets import WebhookSecrets
from service.webhooks.sender import Sender

ASKED_AT_ONCE = 64  # questions to indexes: each holds a thread while a worker is at it
UPLOADS_AT_ONCE = 32  # each holds a thread of its own, and some 30 MiB


@dataclass(frozen=True)
class Parts(Stores):
    """The parts, each ready for use from any thread."""

    keys: Keys
    changes: Changes
    uploads: ThreadPoolExecutor
    upload_limit: AtOnce
    asking: ThreadPoolExecutor
    question_limit: AtOnce
    rate: Rate
    quota: Quota
    outbox: Outbox
    webhook_secrets: WebhookSecrets
    courier: Courier

    @classmethod
    def open(cls, settings: Settings) -> Parts:
        """Opens everything, on the event loop. Raises Unavailable for a storage that cannot be relied on."""
        objects = Objects.of(settings, front=True)
        objects.verify()
        redis = connect(settings.redis_url)
        changes = Changes(redis, settings.namespace_listeners)
        changes.start()
        outbox, webhook_secrets = Outbox(redis), _webhook_secrets(settings, redis)
        courier = _courier(settings, outbox, webhook_secrets)
        courier.start()
        stores = Stores.over(settings, redis, objects)
        return cls(
            **vars(stores),
            keys=Keys(redis, objects),
            changes=changes,
            # Slow senders hold these threads and not those that all other routes share.
            uploads=ThreadPoolExecutor(UPLOADS_AT_ONCE, thread_name_prefix="upload"),
            upload_limit=AtOnce(settings.namespace_uploads, "uploads"),
            asking=ThreadPoolExecutor(ASKED_AT_ONCE, thread_name_prefix="question"),
            question_limit=AtOnce(settings.namespace_questions, "questions to indexes"),
            rate=Rate(redis, settings.namespace_requests),
            quota=Quota(redis, objects, stores.records, settings.namespace_bytes),
            outbox=outbox,
            webhook_secrets=webhook_secrets,
            courier=courier,
        )

    def close(self) -> None:
        """Closes everything."""
        self.changes.close()
        self.courier.close()
        self.changes.join()
        self.uploads.shutdown(wait=False, cancel_futures=True)
        self.asking.shutdown(wait=False, cancel_futures=True)
        self.redis.close()


def webhook_policy(settings: Settings) -> Policy:
    """Where webhooks may go, as the operator says."""
    return Policy(http=settings.webhook_http, networks=settings.webhook_networks)


def _webhook_secrets(settings: Settings, redis: Redis) -> WebhookSecrets:
    of_all = settings.webhook_secret
    return WebhookSecrets(redis, of_all.get_secret_value() if of_all is not None else None)


def _courier(settings: Settings, outbox: Outbox, secrets: WebhookSecrets) -> Courier:
    sender = Sender(webhook_policy(settings), settings.webhook_seconds)
    return Courier(
        outbox,
        secrets,
        sender,
        tries=settings.webhook_tries,
        pause=settings.webhook_pause_seconds,
        seconds=settings.webhook_seconds,
    )
