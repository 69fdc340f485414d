"""Looking at processes that are not our children."""

import time

from service.local.guard import lives


def ended(pid: int, within: float = 120.0) -> bool:
    """Whether a process ends within so many seconds."""
    deadline = time.monotonic() + within
    while lives(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
