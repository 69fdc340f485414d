"""How glibc's malloc keeps what is freed. Nothing where another malloc is in use, or the environment says otherwise."""

from __future__ import annotations

import ctypes
import os

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_MOST_FREE = 128 << 20
_LARGEST_IN_HEAP = 32 << 20  # as large as malloc takes it


def keep_one_arena() -> None:
    """One arena for all threads; to be called before they are started.

    By default each thread gets an arena of its own, up to eight a core, and each keeps up to 64 MiB of what was freed
    in it for allocations in it alone. Threads that read and write blocks of megabytes come and go here, so that a
    worker's memory grew by hundreds of MiB with the blocks it had done, nearly all of it free. The thread that computes
    had the first arena before, too; the others are few, and seldom allocate at the same time.
    """
    _set("MALLOC_ARENA_MAX", {_M_ARENA_MAX: 1})


def keep_what_a_pass_frees() -> None:
    """Up to 128 MiB stay with the process for what it allocates next.

    By default a few MiB do: a product with the Hessian gave back and got anew some 8,000 pages each time, which the
    kernel fills with zeros, a sixth of its time.
    """
    _set(
        "MALLOC_TRIM_THRESHOLD_",
        {_M_TRIM_THRESHOLD: _MOST_FREE, _M_MMAP_THRESHOLD: _LARGEST_IN_HEAP},
    )


class _Info(ctypes.Structure):
    """Of malloc.h: struct mallinfo2."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def give_back_what_is_free() -> None:
    """Gives pages back to the system that hold nothing, wherever they lie; to be called between tasks.

    By itself malloc gives back what is free at the end of its heap alone. What a model has left lies before things that
    stay, and the next model, of another size, does not fit into it: a worker grew with each.
    """
    library = ctypes.CDLL(None)
    counted, trim = getattr(library, "mallinfo2", None), getattr(library, "malloc_trim", None)
    if counted is None or trim is None:
        return
    counted.restype = _Info
    if counted().fordblks > _MOST_FREE:
        trim(ctypes.c_size_t(0))


def _set(variable: str, options: dict[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and variable not in os.environ:
        for option, value in options.items():
            mallopt(option, value)
