"""What `upweight doctor` looks at: the settings, Redis, the object storage, the workers."""

from __future__ import annotations

import difflib
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError
from redis import Redis
from redis.exceptions import AuthenticationError, RedisError

from service.private import open_to_others
from service.settings import Settings
from service.storage.objects import Objects, store_options
from service.storage.redis import connect
from service.storage.workers import alive
from upweight import __version__
from upweight.errors import UpweightError
from upweight.schema.finding import Finding, fail, ok, warn

PREFIX = "UPWEIGHT_"
# Read by the SDK, the command, and the tests.
OTHERS = ("UPWEIGHT_URL", "UPWEIGHT_API_KEY", "UPWEIGHT_REQUIRE_BROWSER", "UPWEIGHT_SCREENSHOTS")
LEAST_ROOM = 5 << 30  # bytes
SLOW_SECONDS = 1.0  # for two writes and a deletion
PATIENCE_SECONDS = 5.0


def settings(environment: Mapping[str, str]) -> tuple[Settings | None, list[Finding]]:
    """The settings if they are valid, and what is wrong with them."""
    findings = unknown(environment)
    try:
        return Settings(), findings or [
            ok("settings", "all UPWEIGHT_ variables are known and valid")
        ]
    except ValidationError as error:
        for wrong in error.errors():
            name = (
                PREFIX + str(wrong["loc"][0]).removeprefix(PREFIX).upper()
                if wrong["loc"]
                else "settings"
            )
            findings.append(fail("settings", f"{name}: {wrong['msg']}; see service/settings.py"))
        return None, findings


def unknown(environment: Mapping[str, str]) -> list[Finding]:
    """Variables that nothing reads: a typo there is a setting that silently keeps its default."""
    known = [*(PREFIX + name.upper() for name in Settings.model_fields), *OTHERS]
    found = []
    for name in sorted(environment):
        if not name.startswith(PREFIX) or name in known:
            continue
        near = difflib.get_close_matches(name, known, n=1)
        meant = f"; did you mean {near[0]}?" if near else ", and nothing of a like name is"
        found.append(warn("settings", f"{name} is set, and is no setting{meant}"))
    return found


SKEW_SECONDS = 2.0  # leases are twelve
OLDEST = (7, 0)


def redis(url: str) -> tuple[Redis | None, list[Finding]]:
    """A connection if there is one, and what is wrong."""
    where = _without_secrets(url)
    try:
        client: Any = connect(url)
        info = client.info()
    except AuthenticationError:
        return None, [
            fail(
                "redis",
                f"{where} wants another user or password: UPWEIGHT_REDIS_URL=redis://:PASSWORD@…",
            )
        ]
    except (RedisError, OSError, ValueError) as error:
        return None, [
            fail(
                "redis",
                f"{where} does not answer ({error}); set UPWEIGHT_REDIS_URL, or `upweight serve`",
            )
        ]
    version = str(info.get("redis_version", "?"))
    found = [ok("redis", f"{where} answers, version {version}")]
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST:
        found.append(warn("redis", f"version {version} is older than 7.0, and was not tried"))
    return client, [*found, _persistence(client, info), *_memory(client, info), _clock(client)]


def _persistence(client: Any, info: dict[str, Any]) -> Finding:
    if not info.get("aof_enabled"):
        return fail(
            "persistence",
            "Redis keeps no append-only file: a restart of it loses jobs and records (`upweight reindex` brings back "
            "what the storage has); set 'appendonly yes'",
        )
    if info.get("aof_last_write_status") != "ok":
        return fail(
            "persistence",
            "Redis could not write its append-only file; see its log, and the disk's space",
        )
    return ok("persistence", "append-only file")


def _memory(client: Any, info: dict[str, Any]) -> list[Finding]:
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction" and int(info.get("maxmemory", 0)):
        return [
            fail(
                "memory",
                f"Redis throws away keys when it is full ({policy}); set 'maxmemory-policy noeviction'",
            )
        ]
    return []


def _clock(client: Any) -> Finding:
    before = time.time()
    seconds, micros = client.time()
    skew = seconds + micros / 1e6 - (before + time.time()) / 2
    if abs(skew) > SKEW_SECONDS:
        return warn("clock", f"Redis's clock is {skew:+.1f} s from this machine's; set both by NTP")
    return ok("clock", f"{skew * 1000:+.0f} ms from Redis's")


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"


def storage(settings: Settings) -> list[Finding]:
    """What is wrong with it."""
    options = replace(store_options(settings, front=True), retry_seconds=PATIENCE_SECONDS)
    began = time.monotonic()
    try:
        objects = Objects(settings.storage, options)
        objects.verify()
    except (UpweightError, OSError, ValueError) as error:
        return [fail("storage", f"{settings.storage}: {error}; see UPWEIGHT_STORAGE")]
    spent = time.monotonic() - began
    found = [ok("storage", f"{objects.url} is written and read, and honours create-if-absent")]
    if spent > SLOW_SECONDS:
        found.append(warn("storage", f"two small writes and a deletion took {spent:.1f} s"))
    if objects.folder is not None:
        if open_to_others(objects.folder):
            found.append(
                warn(
                    "storage",
                    f"other users of this machine can read {objects.folder}, where everybody's data lie; "
                    f"chmod 700 {objects.folder}",
                )
            )
        room = shutil.disk_usage(objects.folder).free
        if room < LEAST_ROOM:
            found.append(
                warn("storage", f"only {room / 1e9:.1f} GB are free where the objects lie")
            )
    return found


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
