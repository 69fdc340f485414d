"""What Redis and the object storage hold, as the front end and every worker use it; wired here once."""

from __future__ import annotations

from dataclasses import dataclass

from redis import Redis

from service.lifecycle.ending import Ending
from service.lifecycle.states import Lifecycle
from service.settings import Settings
from service.storage.copies import Copies
from service.storage.experience import Experiences
from service.storage.grids import Grids
from service.storage.leases import Leases
from service.storage.objects import Objects
from service.storage.qualities import Qualities
from service.storage.questions import Questions
from service.storage.queue import TaskQueue
from service.storage.records import Records
from service.storage.shared import Shared


@dataclass(frozen=True)
class Stores:
    """The stores of one process, each ready for use from any thread."""

    settings: Settings
    redis: Redis
    objects: Objects
    records: Records
    copies: Copies
    lifecycle: Lifecycle
    leases: Leases
    queue: TaskQueue
    grids: Grids
    shared: Shared
    ending: Ending
    qualities: Qualities
    questions: Questions
    experiences: Experiences

    @staticmethod
    def over(settings: Settings, redis: Redis, objects: Objects) -> Stores:
        """All of them over one connection to Redis and one object storage."""
        records = Records(redis)
        lifecycle, leases = Lifecycle(records), Leases(redis, settings.lease_seconds)
        queue = TaskQueue(redis, settings.queue_length)
        grids, shared = Grids(redis), Shared(redis, objects)
        return Stores(
            settings=settings,
            redis=redis,
            objects=objects,
            records=records,
            copies=Copies(redis, objects),
            lifecycle=lifecycle,
            leases=leases,
            queue=queue,
            grids=grids,
            shared=shared,
            qualities=Qualities(redis, objects),
            questions=Questions(redis, queue),
            experiences=Experiences(redis),
            ending=Ending(records, lifecycle, leases, queue, objects, grids, shared),
        )
