"""A real worker that gets a real SIGKILL at one exact point of a job: `python -m tests.faults.dying_worker POINT`.

The points are those of a job in one task, in their order.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from service.local.background import Running
from tests.faults.conftest import SHORT, WAITING

POINTS = ("reading", "fit", "solve", "scores", "storing", "finishing", "telling")
STAGE_SECONDS = 120.0


@contextmanager
def dying_at(
    service: Running, points: Sequence[str], threads: int = 1
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Workers that die at these points, instead of the service's own, which stand still until the block is left."""
    own = [pid for name, pid in service.state().pids.items() if name.startswith("worker")]
    with ExitStack() as stack:
        for pid in own:
            os.kill(pid, signal.SIGSTOP)
            stack.callback(os.kill, pid, signal.SIGCONT)
        workers = [_started(service, point, threads) for point in points]
        for worker in workers:
            stack.callback(worker.wait)
            stack.callback(worker.kill)
        yield workers


def wait_until_dead(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Each by the signal, and nothing else."""
    for worker in workers:
        assert worker.wait(STAGE_SECONDS) == -signal.SIGKILL


def _started(service: Running, point: str, threads: int) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        **SHORT,
        "UPWEIGHT_REDIS_URL": service.redis_url,
        "UPWEIGHT_STORAGE": str(service.storage),
        "UPWEIGHT_THREADS": str(threads),
        **WAITING,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.dying_worker", point],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()  # the signal comes now; nothing more is done until then


def _dying(owner: Any, name: str, *, after: bool = False) -> None:
    """Sets a method that dies before it begins, or after it is done."""
    original: Callable[..., Any] = getattr(owner, name)

    def method(*arguments: Any, **named: Any) -> Any:
        if after:
            original(*arguments, **named)
        _die()

    setattr(owner, name, method)


def _set(point: str) -> None:
    from service.lifecycle.states import Lifecycle
    from workers.jobs.inputs import JobInputs
    from workers.jobs.results import ResultWriter
    from workers.jobs.steps import Steps

    match point:
        case "reading":
            _dying(JobInputs, "__init__", after=True)
        case "fit" | "solve" | "scores":
            _dying(Steps, point)
        case "storing":  # the first chunk is there, and nothing else
            _dying(ResultWriter, "chunk", after=True)
        case "finishing":  # all is there but the manifest
            _dying(ResultWriter, "commit")
        case "telling":  # the manifest is there, and the record does not know
            _dying(Lifecycle, "succeed")
        case _:
            raise SystemExit(f"no such point: {point}; there are {', '.join(POINTS)}")


if __name__ == "__main__":
    from workers.__main__ import main

    _set(sys.argv[1])
    sys.exit(main([]))
