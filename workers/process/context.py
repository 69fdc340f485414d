"""What a worker process has: made once in `__main__`, handed to every task."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import torch

from service.lifecycle.states import LeaseLost
from service.settings import Settings
from service.storage.objects import Objects
from service.storage.redis import connect
from service.stores import Stores
from upweight.errors import UpweightError
from workers.datasets.disk_cache import DiskCache
from workers.fits.session import Session
from workers.process.devices import Claim, claimed_device
from workers.process.floor import Floor
from workers.process.watch import Watch

PATIENCE = 30  # tries after a lost connection to Redis: about two minutes


@dataclass(frozen=True)
class Context(Stores):
    """The parts of a worker. `stopping` is set when the process has been asked to end.

    `begin_anew` replaces the program of this process; None where others share the process.
    """

    name: str
    device: torch.device
    claim: Claim
    session: Session
    scratch: Path
    cache: DiskCache
    floor: Floor
    stopping: threading.Event = field(default_factory=threading.Event)
    begin_anew: Callable[[str, tuple[str, str] | None], NoReturn] | None = None

    def watch(
        self,
        lease: str,
        *,
        seconds: float,
        is_cancelled: Callable[[], bool] = lambda: False,
        report: Callable[[dict[str, Any]], None] = lambda live: None,
        spent_seconds: float = 0.0,
        unanswered: Callable[[Callable[[], bool]], None] | None = None,
    ) -> Watch:
        """Over a task of this worker that holds this lease; see `Watch`."""
        return Watch(
            self.leases,
            lease,
            self.name,
            stopping=self.stopping,
            is_cancelled=is_cancelled,
            report=report,
            seconds=seconds,
            heartbeat_seconds=self.settings.heartbeat_seconds,
            spent_seconds=spent_seconds,
            unanswered=unanswered,
            give_way=self.floor.give_way,
        )

    def ended_from_outside(
        self, job: tuple[str, str] | None, abandon: Callable[[], None]
    ) -> Callable[[Callable[[], bool]], None] | None:
        """What a watch does about a task that does not answer its cancel; None where this process may not be replaced.

        `abandon` ends it in the records first, so that it is seen to be cancelled at once. `job`: its namespace and
        id where it has written something, which the next program looks for.
        """
        begin_anew = self.begin_anew
        if begin_anew is None:
            return None

        def end(has_ended: Callable[[], bool]) -> None:
            with suppress(UpweightError, LeaseLost):  # recovery ends it, once its lease has run out
                abandon()
            if not has_ended():
                self.floor.vacate()
                begin_anew("a cancelled task did not answer", job)

        return end

    @classmethod
    def build(
        cls,
        settings: Settings,
        begin_anew: Callable[[str, tuple[str, str] | None], NoReturn] | None = None,
    ) -> Context:
        """Connects to everything. Raises Unavailable."""
        redis = connect(settings.redis_url, patience=PATIENCE)
        objects = Objects.of(settings)
        objects.verify()
        scratch = settings.scratch or Path(tempfile.gettempdir())
        scratch.mkdir(parents=True, exist_ok=True)
        claim = claimed_device(settings.device, settings.workers_per_device, scratch)
        device = claim.device
        cache = DiskCache(scratch / f"upweight-cache-{os.getuid()}", settings.disk_cache_bytes)
        return cls(
            **vars(Stores.over(settings, redis, objects)),
            name=f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}",
            device=device,
            claim=claim,
            session=Session(objects, scratch, device, settings, cache),
            scratch=scratch,
            cache=cache,
            begin_anew=begin_anew,
            floor=Floor(settings.tasks_in_hand, device),
        )
