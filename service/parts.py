"""What the front end is made of: opened when it starts, handed to every route, closed when it ends."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from redis import Redis

from service.auth import Keys
from service.changes import Changes
from service.jobs.lifecycle import Lifecycle
from service.settings import Settings
from service.storage.copies import Copies
from service.storage.objects import Objects
from service.storage.queue import TaskQueue
from service.storage.records import Records
from service.storage.redis import connect

UPLOADS_AT_ONCE = 32  # each holds a thread of its own, and some 30 MiB


@dataclass(frozen=True)
class Parts:
    """The parts, each ready for use from any thread."""

    settings: Settings
    redis: Redis
    records: Records
    copies: Copies
    lifecycle: Lifecycle
    queue: TaskQueue
    objects: Objects
    keys: Keys
    changes: Changes
    uploads: ThreadPoolExecutor

    @classmethod
    def open(cls, settings: Settings) -> Parts:
        """Opens everything, on the event loop. Raises Unavailable for a storage that cannot be relied on."""
        objects = Objects(settings.storage)
        objects.verify()
        redis = connect(settings.redis_url)
        records = Records(redis)
        changes = Changes(redis)
        changes.start()
        return cls(
            settings=settings,
            redis=redis,
            records=records,
            copies=Copies(redis, objects),
            lifecycle=Lifecycle(records),
            queue=TaskQueue(redis, settings.queue_length),
            objects=objects,
            keys=Keys(redis, objects),
            changes=changes,
            # Slow senders hold these threads and not those that all other routes share.
            uploads=ThreadPoolExecutor(UPLOADS_AT_ONCE, thread_name_prefix="upload"),
        )

    def close(self) -> None:
        """Closes everything."""
        self.changes.close()
        self.changes.join()
        self.uploads.shutdown(wait=False, cancel_futures=True)
        self.redis.close()
