"""Whether the object storage can be written, honours create-if-absent, and has room."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace

from service.private import open_to_others
from service.settings import Settings
from service.storage.objects import Objects, store_options
from upweight.diagnosis import Finding, fail, ok, warn
from upweight.errors import UpweightError

LEAST_ROOM = 5 << 30  # bytes
SLOW_SECONDS = 1.0  # for two writes and a deletion
PATIENCE_SECONDS = 5.0


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
