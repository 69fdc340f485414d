"""Operators that read past the end of a tensor: each allowed one on tensors that end where memory does.

    python -m tests.programs.guarded --seconds 60

calls allowed operators at random in forked processes. One that reads or writes beyond its arguments ends its process
(SIGSEGV), and is printed with what it was given: such an operator needs a rule, or a check of its shapes (`fitting`).
"""

import argparse
import ctypes
import mmap
import os
import random
import resource
import time
from collections import Counter
from typing import Any

import torch

from workers.programs.calls import _ENUMERATIONS, check_arguments
from workers.programs.errors import ProgramError
from workers.programs.fitting import fitting
from workers.programs.operators import ALLOWED, resolve

_PAGE = mmap.PAGESIZE
_NONE, _PRIVATE_ANONYMOUS = 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_DTYPES = (torch.float32,) * 8 + (
    torch.float64,
    torch.int64,
    torch.int64,
    torch.bool,
    torch.complex64,
)
_EACH = 40  # calls in one process
_MEMORY, _SECONDS = 6 << 30, 20


def guarded(values: torch.Tensor) -> torch.Tensor:
    """A copy whose last byte is followed by a page that can't be read."""
    size = values.numel() * values.itemsize
    pages = -(-max(size, 1) // _PAGE)
    block = mmap.mmap(-1, (pages + 1) * _PAGE, flags=_PRIVATE_ANONYMOUS)
    start = ctypes.addressof(ctypes.c_char.from_buffer(block))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(start + pages * _PAGE), ctypes.c_size_t(_PAGE), _NONE):
        raise OSError(ctypes.get_errno(), "mprotect")
    if not size:
        return values
    flat = torch.frombuffer(
        block, dtype=values.dtype, count=values.numel(), offset=pages * _PAGE - size
    )
    return flat.view(values.shape).copy_(values)


def drawn(draw: random.Random) -> torch.Tensor:
    """A small tensor; sizes are few, so that they often fit each other."""
    shape = [
        draw.choice((0, 1, 2, 2, 3, 3, 4, 5, 40))
        for _ in range(draw.choice((0, 1, 1, 2, 2, 3, 3, 4, 5)))
    ]
    dtype = draw.choice(_DTYPES)
    if dtype is torch.int64:
        return guarded(torch.randint(-2, 60, shape))
    return guarded((torch.randn(shape) * draw.choice((1, 1, 100, 1e20))).to(dtype))


def argument(draw: random.Random, kind: str) -> Any:
    """A value of an operator's schema's type."""
    optional = kind.startswith("Optional[")
    if optional and (draw.random() < 0.3 or any(each in kind for each in _ENUMERATIONS)):
        return None
    some = range(draw.choice((0, 1, 2, 2, 3, 4)))
    number = (-2, -1, 0, 1, 1, 2, 2, 3, 4, 40, 2**31, 2**62)
    match kind.removeprefix("Optional[").rstrip("]"):
        case "Tensor":
            return drawn(draw)
        case "List[Tensor" | "List[Optional[Tensor":
            return [drawn(draw) for _ in some]
        case "List[int" | "List[SymInt":
            return [draw.choice(number) for _ in some]
        case "List[float":
            return [draw.choice((0.0, 0.5, 2.0, 1e30)) for _ in some]
        case "List[bool":
            return [draw.random() < 0.5 for _ in some]
        case "bool":
            return draw.random() < 0.5
        case "float" | "number":
            return draw.choice((0.0, 0.5, 1.0, -1.0, 1e30, float("nan")))
        case "str":
            return draw.choice(("sum", "mean", "none", "ij,jk->ik", "constant", "bilinear", "fro"))
        case _:
            return draw.choice(number)


def call(name: str, overload: str, seed: int) -> str:
    """One call, as a program would make it. Returns what was called."""
    draw = random.Random(seed)
    op = resolve(f"torch.ops.aten.{name}.{overload}")
    values = {
        each.name: argument(draw, str(each.real_type))
        for each in op._schema.arguments
        if not each.has_default_value() or draw.random() < 0.4
    }
    check_arguments(op, values)
    torch.manual_seed(0)
    fitting(op)(**values)
    return f"{name}.{overload}"


def trial(name: str, overload: str, first: int) -> tuple[int, int]:
    """Some calls in a process of their own: its status, and the number of the call that was under way."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for seed in range(first, first + _EACH):
            os.write(writer, seed.to_bytes(8, "little"))
            try:
                call(name, overload, seed)
            except (
                ProgramError,
                RuntimeError,
                TypeError,
                ValueError,
                IndexError,
                NotImplementedError,
                MemoryError,
                OverflowError,
            ):
                continue
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        seeds = told.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), int.from_bytes(seeds[-8:], "little")


def main() -> None:
    """Until the time is over."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--first", type=int, default=0, help="number of the first call")
    given = parser.parse_args()
    torch.set_num_threads(1)
    overloads = [
        (name, each)
        for name in sorted(ALLOWED)
        for each in getattr(torch.ops.aten, name).overloads()
    ]
    found: Counter[str] = Counter()
    until, first = time.monotonic() + given.seconds, given.first
    while time.monotonic() < until:
        for name, overload in overloads:
            status, seed = trial(name, overload, first)
            if status < 0:
                found[f"{name}.{overload} signal {-status}"] += 1
                print(f"{name}.{overload} with {seed} ended by signal {-status}", flush=True)  # noqa: T201
        first += _EACH
    print(f"{(first - given.first) * len(overloads)} calls; {dict(found)}")  # noqa: T201


if __name__ == "__main__":
    main()
