"""What a worker process has: made once in `__main__`, handed to every task."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import torch
from redis import Redis

from service.jobs.ending import Ending
from service.jobs.states import Lifecycle
from service.settings import Settings
from service.storage.copies import Copies
from service.storage.grids import Grids
from service.storage.leases import Leases
from service.storage.objects import Objects
from service.storage.queue import TaskQueue
from service.storage.records import Records
from service.storage.redis import connect
from service.storage.shared import Shared
from workers.datasets.disk_cache import DiskCache
from workers.fits.session import Session
from workers.process.devices import Claim, claimed_device

PATIENCE = 30  # tries after a lost connection to Redis: about two minutes


@dataclass(frozen=True)
class Context:
    """The parts of a worker. `stopping` is set when the process has been asked to end."""

    settings: Settings
    name: str
    device: torch.device
    claim: Claim
    redis: Redis
    records: Records
    copies: Copies
    lifecycle: Lifecycle
    leases: Leases
    queue: TaskQueue
    objects: Objects
    grids: Grids
    shared: Shared
    ending: Ending
    session: Session
    scratch: Path
    cache: DiskCache
    stopping: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def build(cls, settings: Settings) -> Context:
        """Connects to everything. Raises Unavailable."""
        redis = connect(settings.redis_url, patience=PATIENCE)
        records = Records(redis)
        objects = Objects.of(settings)
        objects.verify()
        scratch = settings.scratch or Path(tempfile.gettempdir())
        scratch.mkdir(parents=True, exist_ok=True)
        claim = claimed_device(settings.device, settings.workers_per_device, scratch)
        device = claim.device
        cache = DiskCache(scratch / f"upweight-cache-{os.getuid()}", settings.disk_cache_bytes)
        lifecycle, queue = Lifecycle(records), TaskQueue(redis, settings.queue_length)
        grids, shared = Grids(redis), Shared(redis, objects)
        leases = Leases(redis, settings.lease_seconds)
        return cls(
            settings=settings,
            name=f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}",
            device=device,
            claim=claim,
            redis=redis,
            records=records,
            copies=Copies(redis, objects),
            lifecycle=lifecycle,
            leases=leases,
            queue=queue,
            objects=objects,
            grids=grids,
            shared=shared,
            ending=Ending(records, lifecycle, leases, queue, objects, grids, shared),
            session=Session(objects, scratch, device, settings, cache),
            scratch=scratch,
            cache=cache,
        )
