"""How fast this machine multiplies matrices: the limit that everything here is compared with."""

from __future__ import annotations

import platform
import time

import torch

SIZE = 1536
REPEATS = 5
SAMPLES = 5


def gemm_rate(threads: int) -> float:
    """float32 GFLOP/s of large matrix products, the best of some samples."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    left, right = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
    rates = []
    for _ in range(SAMPLES):
        begun = time.perf_counter()
        for _ in range(REPEATS):
            left @ right
        rates.append(REPEATS * 2 * SIZE**3 / (time.perf_counter() - begun) / 1e9)
    torch.set_num_threads(before)
    return max(rates)


def described() -> str:
    """The processor, system and versions, in a line."""
    return (
        f"{_processor()}, {platform.system()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
