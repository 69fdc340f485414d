"""Whether anybody does the jobs, with which versions, and where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import Redis

from service.storage.workers import alive
from upweight import __version__
from upweight.diagnosis import Finding, fail, ok, warn


def workers(redis: Redis, device: str) -> list[Finding]:
    """What is wrong with them. `device`: what the settings here ask for."""
    found = alive(redis)
    if not found:
        return [fail("workers", "none is alive: jobs wait; start one: upweight worker")]
    names = ", ".join(f"{worker['device']} on {worker['host']}" for worker in found)
    return [
        ok("workers", f"{len(found)} alive: {names}"),
        *_versions(found),
        *_devices(found, device),
        *_queues(found),
    ]


def _versions(found: Sequence[dict[str, Any]]) -> list[Finding]:
    ours = {str(worker["version"]) for worker in found} | {__version__}
    torches = {str(worker["torch"]) for worker in found}
    if len(ours) > 1:
        words = f"several versions of Upweight at work: {', '.join(sorted(ours))}"
        return [warn("versions", f"{words}; upgrade the older ones")]
    if len(torches) > 1:
        words = f"several versions of torch at work: {', '.join(sorted(torches))}"
        return [warn("versions", f"{words}; a job's blocks may round differently")]
    return [ok("versions", f"Upweight {__version__}, torch {torches.pop()}")]


def _devices(found: Sequence[dict[str, Any]], device: str) -> list[Finding]:
    kinds = {str(worker["device"]).partition(":")[0] for worker in found}
    wanted = device.partition(":")[0]
    if wanted not in ("auto", *kinds):
        return [
            warn(
                "device",
                f"UPWEIGHT_DEVICE is {device}, and the workers run on {', '.join(sorted(kinds))}",
            )
        ]
    return [ok("device", ", ".join(sorted(kinds)))]


def _queues(found: Sequence[dict[str, Any]]) -> list[Finding]:
    served = {name for worker in found for name in worker["queues"]}
    missing = [name for name in ("high", "default", "low") if name not in served]
    if missing:
        return [
            warn(
                "queues",
                f"no worker takes jobs of priority {', '.join(missing)}; see upweight worker --queues",
            )
        ]
    return []
