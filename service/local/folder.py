"""The data folder: for one stack at a time, as two servers would ruin one append-only file, and for its user alone."""

from __future__ import annotations

import fcntl
import shutil
import time
from pathlib import Path
from typing import IO

from service.local.guard import lives
from service.local.state import State
from service.local.trouble import LocalTrouble
from service.private import private_folder

FULL_BYTES = 1 << 20  # less is a full disk: Redis needs as much to begin with
REST_SECONDS = 15.0  # the guard of one that was killed gives its children ten


def locked(data: Path) -> IO[str]:
    """The folder, made when missing, for us alone until the file is closed.

    A folder whose stack was killed a moment ago is waited for; one whose stack runs is refused at once.
    """
    try:
        private_folder(data)
        lock = (data / "lock").open("w")
    except OSError as trouble:
        raise LocalTrouble(
            f"The data folder {data} cannot be used: {trouble.strerror}."
        ) from trouble
    deadline = time.monotonic() + REST_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except OSError as taken:
            if supervised(data) or time.monotonic() > deadline:
                lock.close()
                raise LocalTrouble(
                    f"Another Upweight runs on {data}: stop it, or choose another folder with --data-dir."
                ) from taken
        time.sleep(0.1)


def no_room(data: Path) -> str:
    """What to say of a disk that has next to no room; nothing where it has."""
    free = shutil.disk_usage(data).free
    if free >= FULL_BYTES:
        return ""
    return (
        f" The disk of {data} has {free // 1024} KiB left: make room and start again; nothing that is stored there is "
        "lost."
    )


def supervised(data: Path) -> bool:
    """Whether whoever holds the folder is there to look after it, or is not to be known."""
    try:
        return lives(State.read(data).pid)
    except FileNotFoundError:
        return True
