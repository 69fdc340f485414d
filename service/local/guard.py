"""Ends the processes it was told of once whoever told it is gone, however that happened.

Reads `+PID` and `-PID` lines; when the input closes, which a SIGKILL of the other end also brings about, it ends what
is left. A pipe instead of Linux's parent-death signal: that one fires when the starting THREAD ends, and macOS has
none. Run by its path without site packages, so it knows the standard library alone.
"""

import os
import signal
import sys
import time
from collections.abc import Callable


def main(grace_seconds: float) -> None:
    """Keep the list until the input ends, then end what is on it."""
    # A terminal's Ctrl-C and a polite end of the whole session are for the supervisor to answer, not for its guard.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    guarded: set[int] = set()
    for line in sys.stdin:
        pid = int(line[1:])
        if line[0] == "+":
            guarded.add(pid)
        else:
            guarded.discard(pid)
    end(guarded, grace_seconds)


def end(pids: set[int], grace_seconds: float) -> None:
    """SIGTERM to each process, then SIGKILL to the groups of those that did not go."""
    alive = {pid for pid in pids if reached(os.kill, pid, signal.SIGTERM)}
    deadline = time.monotonic() + grace_seconds
    while alive and time.monotonic() < deadline:
        time.sleep(0.05)
        alive = {pid for pid in alive if lives(pid)}
    for pid in pids:
        reached(os.killpg, pid, signal.SIGKILL)


def lives(pid: int) -> bool:
    """Whether a process still does something: one that only waits to be reaped does not."""
    if not reached(os.kill, pid, 0):
        return False
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(") ")[2][:1] not in "ZX"
    except OSError:  # no such file system: then the signal's word is all there is
        return True


def reached(send: Callable[[int, int], None], pid: int, number: int) -> bool:
    """Send a signal; False when nobody is there, or nobody of ours."""
    try:
        send(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    main(float(sys.argv[1]))
