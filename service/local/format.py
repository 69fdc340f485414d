"""How things lie in a data folder, as a number in it: an older one is taken over, a newer one refused in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from service.local.redis_server import write_private
from service.local.trouble import LocalTrouble

FILE = "format"
# Grows when things lie otherwise. 1: `redis/` with the append-only file and `objects/`, and no such number.
FORMAT = 2
# From each older format, what makes the next one of a folder; each can be done again when it was cut off.
MIGRATIONS: Mapping[int, Callable[[Path], None]] = {1: lambda data: None}


def brought_up_to_date(data: Path) -> str | None:
    """Sees that a folder which nobody else uses is of our format. Says what was done, in words; None where nothing was.

    Raises LocalTrouble for a folder of a newer version, or whose number can't be read: it is left as it is.
    """
    found = _format_of(data)
    if found == FORMAT:
        return None
    if found is None:
        _mark(data, FORMAT)
        return None
    if found > FORMAT:
        raise LocalTrouble(
            f"The data folder {data} was written by a newer Upweight (format {found}; this one knows {FORMAT}). Start "
            "that version or a newer one on it, or choose another folder with --data-dir. Nothing in it was changed."
        )
    for number in range(found, FORMAT):
        MIGRATIONS[number](data)
        _mark(data, number + 1)
    return f"the data folder was of an older version and is of format {FORMAT} now (it was {found})"


def _format_of(data: Path) -> int | None:
    """None for a folder with nothing in it yet."""
    try:
        text = (data / FILE).read_text().strip()
    except FileNotFoundError:
        has_data = any((data / name).exists() for name in ("redis", "objects"))
        return 1 if has_data else None
    except OSError as trouble:
        raise LocalTrouble(f"{data / FILE} can't be read: {trouble.strerror}.") from trouble
    except UnicodeDecodeError:
        text = ""
    if not (text.isascii() and text.isdigit()):
        raise LocalTrouble(
            f"{data / FILE} should hold a number, the format of the data folder, and does not. Put it back from a "
            f"backup; if the folder was last used by this version, write {FORMAT} into it."
        )
    return int(text)


def _mark(data: Path, number: int) -> None:
    write_private(data / FILE, f"{number}\n")
