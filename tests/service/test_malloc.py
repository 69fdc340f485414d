"""Memory that threads have freed is there for the next thread."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Threads that allocate at the same time; prints how many arenas malloc has then.
ARENAS = """
import ctypes, sys, tempfile, threading
from service.malloc import keep_one_arena
if sys.argv[1] == "one":
    keep_one_arena()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.fopen.restype, libc.fopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p] * 2
libc.fclose.argtypes = [ctypes.c_void_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
together = threading.Barrier(6)
def allocates():
    libc.malloc(5000)
    together.wait()
threads = [threading.Thread(target=allocates) for _ in range(6)]
for each in threads: each.start()
for each in threads: each.join()
with tempfile.NamedTemporaryFile() as told:
    file = libc.fopen(told.name.encode(), b"w")
    libc.malloc_info(0, file)
    libc.fclose(file)
    print(told.read().count(b"<heap nr"))
"""


def printed(program: str, argument: str, **environment: str) -> int:
    """By a process of its own, with no other settings of malloc than these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    ran = subprocess.run(
        [sys.executable, "-c", program, argument],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(ran.stdout)


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="glibc's malloc")
def test_a_process_has_one_arena_unless_its_environment_says_otherwise() -> None:
    assert printed(ARENAS, "as-it-is") > 1
    assert printed(ARENAS, "one") == 1
    assert printed(ARENAS, "one", MALLOC_ARENA_MAX="4") > 1


# Arrays of 8 MiB that come and go; prints how many pages the kernel had to give for each.
PAGES = """
import resource, sys
from service.malloc import keep_what_a_pass_frees
if sys.argv[1] == "kept":
    keep_what_a_pass_frees()
def passes(count):
    for _ in range(count):
        blocks = [bytearray(8 << 20) for _ in range(4)]
        for block in blocks:
            block[:] = bytes(1) * len(block)
passes(3)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
passes(10)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10)
"""


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="glibc's malloc")
def test_a_worker_gets_no_new_pages_for_what_it_has_just_freed() -> None:
    assert printed(PAGES, "as-it-is") > 2000
    assert printed(PAGES, "kept") < 100
    assert printed(PAGES, "kept", MALLOC_TRIM_THRESHOLD_="1048576") > 2000


# A hole of 200 MiB below something that stays; prints how many MiB of it are still there.
HOLES = """
import sys
import numpy as np
from service.malloc import give_back_what_is_free, keep_one_arena, keep_what_a_pass_frees
keep_one_arena()
keep_what_a_pass_frees()
def held():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Anonymous")) // 1024
before = held()
hole = [np.ones(2 << 20) for _ in range(12)]
stays = np.ones(1 << 17)
del hole
if sys.argv[1] == "given back":
    give_back_what_is_free()
print(held() - before)
"""


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="glibc's malloc")
def test_what_a_model_leaves_in_the_middle_of_the_heap_is_given_back() -> None:
    assert printed(HOLES, "kept") > 150
    assert printed(HOLES, "given back") < 20
