"""What to start on this machine, and with which environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.local.keeper import LONGEST_PAUSE

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8765
DEFAULT_DATA = Path("upweight-data")


@dataclass(frozen=True)
class Plan:
    """One folder of data, one front end, some workers, and a Redis unless there is one already."""

    data: Path
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    workers: int = 1
    redis_url: str | None = None  # None: the embedded one
    storage: str | None = None  # None: the folder `objects`
    longest_pause: float = LONGEST_PAUSE  # before what died young again and again is started again

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", self.data.resolve())  # children may not share our folder

    def environment(self, base: Mapping[str, str], redis_url: str) -> dict[str, str]:
        """What front end and workers are told; whatever else the caller set is theirs too."""
        variables = side_by_side(base, self.workers)
        variables["UPWEIGHT_REDIS_URL"] = redis_url
        variables["UPWEIGHT_STORAGE"] = self.storage or str(self.data / "objects")
        variables["UPWEIGHT_HOST"] = self.host
        variables["UPWEIGHT_PORT"] = str(self.port)
        return variables


def side_by_side(base: Mapping[str, str], workers: int) -> dict[str, str]:
    """What programs on one machine are told, so that they leave each other room; what is set already stays."""
    variables = {**base, "PYTHONUNBUFFERED": "1"}
    if workers > 1:  # each would take every core, and all be slower for it
        variables.setdefault("UPWEIGHT_THREADS", str(threads_each(workers)))
        # A worker's threads sleep while they wait for each other: spinning, they would take the cores from the others.
        # One that has the machine to itself is slower by it.
        variables.setdefault("OMP_WAIT_POLICY", "passive")
    return variables


def threads_each(workers: int) -> int:
    """An even share of the cores that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (allowed or 1) // workers)
