"""glibc's malloc with one arena for all threads of a process.

By default each thread gets an arena of its own, up to eight a core, and each keeps up to 64 MiB of what was freed in it
for allocations in it alone. Threads that read and write blocks of megabytes come and go here, so that a worker's memory
grew by hundreds of MiB with the blocks it had done, nearly all of it free. The thread that computes had the first arena
before, too; the others are few, and seldom allocate at the same time.
"""

from __future__ import annotations

import ctypes
import os

_M_ARENA_MAX = -8  # of malloc.h


def keep_one_arena() -> None:
    """To be called before threads are started. Nothing where MALLOC_ARENA_MAX is set, or where malloc is another."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, 1)
