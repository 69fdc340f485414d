"""Looking at processes that are not our children."""

import time
from pathlib import Path


def ended(pid: int, within: float = 5.0) -> bool:
    """Whether a process has gone, or is a zombie that will never run again, within so many seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False
