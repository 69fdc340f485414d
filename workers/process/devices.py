"""The device of a worker: one GPU a worker, or a GPU for several by a setting, whoever starts them on this machine.

A worker holds a lock on a file named after its GPU for as long as it lives; what was killed has let go of it.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import nn

from upweight.errors import Unavailable
from workers.engine import Direct, Hessian, Problem, TensorRows, make_loss, row_gradients, up

_NAMES = re.compile(r"^(auto|cpu|mps|cuda(:\d{1,3})?)$")


@dataclass(frozen=True)
class Claim:
    """A device, and what keeps others off it for as long as it is open; nothing for a CPU."""

    device: torch.device
    lock: IO[str] | None = None


def claimed_device(wish: str, per_device: int, folder: Path) -> Claim:
    """The device of that name; `auto` and `cuda` take the first GPU with room, `auto` the CPU where there is none.

    Raises Unavailable for a device that is not there, or that has its workers already.
    """
    if not _NAMES.fullmatch(wish):
        raise Unavailable(f"{wish!r} is no device; there are: auto, {', '.join(_there())}")
    if wish.startswith("cuda") or (wish == "auto" and torch.cuda.is_available()):
        return _claimed_gpu(wish, per_device, folder)
    if wish == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return Claim(found if found is not None else torch.device("cpu"))
    if wish not in _there():
        raise Unavailable(f"there is no device {wish!r} here; there are: {', '.join(_there())}")
    return Claim(torch.device(wish))


def _claimed_gpu(wish: str, per_device: int, folder: Path) -> Claim:
    gpus = {
        f"cuda:{number}": str(torch.cuda.get_device_properties(number).uuid)
        for number in range(torch.cuda.device_count())
    }
    wanted = list(gpus) if wish in ("auto", "cuda") else [wish]
    if not gpus or wanted[0] not in gpus:
        raise Unavailable(f"there is no device {wish!r} here; there are: {', '.join(_there())}")
    name, lock = first_with_room(wanted, gpus, per_device, folder)
    return Claim(torch.device(name), lock)


def first_with_room(
    wanted: Sequence[str], identities: Mapping[str, str], per_device: int, folder: Path
) -> tuple[str, IO[str]]:
    """The first device that has fewer workers than it may, with a lock on its place. Raises Unavailable.

    `identities` are names that no other GPU of the machine has: `cuda:0` may be another one to another process.
    """
    for place in range(per_device):
        for name in wanted:
            lock = _locked(folder / f"upweight-{os.getuid()}-{identities[name]}-{place}.lock")
            if lock is not None:
                return name, lock
    raise Unavailable(
        f"{', '.join(wanted)}: each has {per_device} worker(s) already, as many as it may; stop one, name another "
        "--device, or raise UPWEIGHT_WORKERS_PER_DEVICE"
    )


def _locked(path: Path) -> IO[str] | None:
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _there() -> list[str]:
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return ["cpu", *gpus, *mps]


def warm_up(device: torch.device) -> None:
    """A small job from end to end, on a network of a few parameters.

    torch's first use of its function transforms costs over a second: it is spent before the first job, not in it.
    """
    network = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)).eval()
    rows = TensorRows(torch.ones(4, 3), torch.zeros(4, dtype=torch.int64), device=device)
    problem = Problem(network, make_loss("cross_entropy"), device=device)
    rhs = torch.cat([block for _, block in row_gradients(problem, rows)])
    # λ far above any curvature of such a network, whose weights are random: H + λI is definite.
    factors = Direct().solve(Hessian(problem, rows), 100.0, rhs).x
    for _ in up(problem, factors, rows):
        pass
