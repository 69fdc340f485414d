"""A process that begins anew in its own place: same id, arguments and supervisor, and nothing of its memory.

A call into torch can't be interrupted, and may take minutes. Whoever can't wait for its end replaces the program that
runs it: `exec` ends all other threads and lets go of memory, device and locks at once.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from service.logs import log

_LEFT = "UPWEIGHT_LEFT_JOB"  # namespace and id of the job that the program before was ended in


def begin_anew(why: str, left: tuple[str, str] | None = None) -> NoReturn:
    """Replaces this program by a fresh one; `left` is the namespace and id of a job that was ended with it."""
    log("worker-begins-anew", why=why, job=left[1] if left else None)
    if left is not None:
        os.environ[_LEFT] = " ".join(left)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def taken_over() -> tuple[str, str] | None:
    """The job that the program before was ended in, once; the processes that it had started are reaped."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    namespace, _, id = os.environ.pop(_LEFT, "").partition(" ")
    return (namespace, id) if id else None
