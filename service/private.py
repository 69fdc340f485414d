"""What the service writes on a disk is for its own user: everybody's data and the webhook secrets lie there."""

from __future__ import annotations

import os
from pathlib import Path

_FOLDER_MODE = 0o700
_OTHERS = 0o077


def keep_files_private() -> None:
    """New files and folders of this process and its children are for their user alone, whatever the umask was."""
    os.umask(_OTHERS)


def private_folder(path: Path) -> None:
    """Makes a folder, or takes one that is there, for its user alone. Raises OSError."""
    path.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    if path.stat().st_mode & _OTHERS:
        path.chmod(_FOLDER_MODE)


def open_to_others(path: Path) -> bool:
    """Whether other users of this machine may read, write or enter it, and may get there."""
    return all(each.stat().st_mode & _OTHERS for each in (path, *path.absolute().parents))
