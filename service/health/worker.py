"""`python -m service.health.worker`: whether this machine's worker is alive, for a container's health check."""

from __future__ import annotations

import platform
import sys

from service.settings import Settings
from service.storage.redis import connect
from service.storage.workers import alive
from upweight.errors import UpweightError


def main() -> int:
    """0 when a worker of this host has said within the last seconds that it lives, 1 else."""
    try:
        workers = alive(connect(Settings().redis_url))
    except UpweightError as error:
        # Not the worker's fault: it waits for Redis, and to start it again would not help.
        sys.stderr.write(f"{error.detail}\n")
        return 0
    return 0 if any(worker["host"] == platform.node() for worker in workers) else 1


if __name__ == "__main__":
    sys.exit(main())
