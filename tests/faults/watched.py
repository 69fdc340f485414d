"""Jobs as they are seen from outside, until something holds of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from upweight import Client
from upweight.schema import JobRecord

PATIENCE = 120.0  # seconds that anything may take on a machine full of other work


class Watched:
    """Looks at records again and again."""

    client: Client

    def ended(self, job: JobRecord, seconds: float = PATIENCE) -> JobRecord:
        """The record once the job has ended, in whichever way."""
        return self.seen(job, lambda record: record.finished_at is not None, seconds)

    def seen(
        self, job: JobRecord, met: Callable[[JobRecord], bool], seconds: float = PATIENCE
    ) -> JobRecord:
        """The record once something holds of it."""
        deadline = time.monotonic() + seconds
        while not met(record := self.client.jobs.get(job.id)):
            assert time.monotonic() < deadline, record
            time.sleep(0.02)
        return record


def files_below(folder: Path) -> list[Path]:
    """The files in a folder that others write into and clear away. os.walk passes over folders that vanish while
    it looks; Path.rglob raises."""
    return [Path(where) / name for where, _, names in os.walk(folder) for name in names]
