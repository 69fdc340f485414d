"""Tells that this worker lives, so that the front end knows whether anybody will do a job."""

from __future__ import annotations

import os
import platform
import resource
import threading

import torch

from service.logs import log
from service.storage.workers import forget, register
from upweight import __version__
from upweight.errors import Unavailable
from workers.process.context import Context

_TTL_SECONDS = 15
_PAUSE_SECONDS = 4.0


class Presence:
    """A thread that renews the worker's entry."""

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
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> None:
        """Registers at once, then every few seconds."""
        self._tell()
        self._thread.start()

    def _run(self) -> None:
        while not self._context.stopping.wait(_PAUSE_SECONDS):
            self._tell()
        try:
            forget(self._context.redis, self._context.name)
        except Unavailable as error:
            log("presence-not-told", level="warning", detail=error.detail)

    def _tell(self) -> None:
        try:
            info = {**self._info, "memory": memory(self._context.device)}
            register(self._context.redis, self._context.name, info, _TTL_SECONDS)
        except Unavailable as error:
            log("presence-not-told", level="warning", detail=error.detail)


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
