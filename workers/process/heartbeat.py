"""Tells that this worker lives, so that the front end knows whether anybody will do a job."""

from __future__ import annotations

import os
import platform
import resource

import torch

from service.storage.workers import forget, register
from upweight import __version__
from workers.process.background import Background
from workers.process.context import Context

_TTL_SECONDS = 15
_PAUSE_SECONDS = 4.0


class Heartbeat:
    """A thread that renews the worker's entry, and takes it out at the end."""

    def __init__(self, context: Context, queues: list[str]) -> None:
        self._context = context
        self._info = {
            "device": str(context.device),
            "queues": queues,
            "pid": os.getpid(),
            "host": platform.node(),
            "version": __version__,
            "torch": torch.__version__,
        }
        self._thread = Background(
            "heartbeat", self._register, context.stopping, _PAUSE_SECONDS, at_end=self._forget
        )

    def start(self) -> None:
        """Registers at once, then every few seconds."""
        self._thread.attempt(self._register)
        self._thread.start()

    def _register(self) -> None:
        info = {**self._info, "memory": memory(self._context.device)}
        register(self._context.redis, self._context.name, info, _TTL_SECONDS)

    def _forget(self) -> None:
        forget(self._context.redis, self._context.name)


def memory(device: torch.device) -> dict[str, int]:
    """Bytes: of the process (`resident`), and of the device, as torch has them and as the device itself counts."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {"resident_peak": resident}
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        found |= {
            "device_allocated": torch.cuda.memory_allocated(device),
            "device_reserved": torch.cuda.memory_reserved(device),
            "device_used": total - free,
            "device_total": total,
        }
    return found
