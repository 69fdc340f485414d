"""Jobs as they are seen from outside, until something holds of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from upweight import Client
from upweight.schema import JobRecord

PATIENCE = 120.0  # seconds that anything may take on a machine full of other work
# Seconds between two looks, each of which takes client and front end some hundredth of processor time: few at what
# stays so, many at what is soon over (workers tell of it four times a second).
SHORTEST, LONGEST, AT_MOST_FOR_MOMENTS = 0.02, 0.25, 0.05


class Watched:
    """Looks at records again and again."""

    client: Client

    def ended(self, job: JobRecord, seconds: float = PATIENCE) -> JobRecord:
        """The record once the job has ended, in whichever way."""
        return self._seen(job, lambda record: record.finished_at is not None, seconds, LONGEST)

    def seen(
        self, job: JobRecord, met: Callable[[JobRecord], bool], seconds: float = PATIENCE
    ) -> JobRecord:
        """The record once something holds of it, be it for a moment."""
        return self._seen(job, met, seconds, AT_MOST_FOR_MOMENTS)

    def _seen(
        self, job: JobRecord, met: Callable[[JobRecord], bool], seconds: float, longest: float
    ) -> JobRecord:
        deadline, pause = time.monotonic() + seconds, SHORTEST
        while not met(record := self.client.jobs.get(job.id)):
            assert time.monotonic() < deadline, record
            time.sleep(pause)
            pause = min(1.2 * pause, longest)
        return record


def files_below(folder: Path) -> list[Path]:
    """The files in a folder that others write into and clear away. os.walk passes over folders that vanish while
    it looks; Path.rglob raises."""
    return [Path(where) / name for where, _, names in os.walk(folder) for name in names]
