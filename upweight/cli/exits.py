"""How the command ends: exit codes that mean something, and every failure in one line with the way out."""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any


class Exit(IntEnum):
    """What a script can tell apart."""

    OK = 0
    FAILED = 1  # it was tried and did not work: a job failed, a check was not passed
    USAGE = 2  # the command, or what it was given, is wrong
    NOT_FOUND = 3  # no such model, dataset, job, or part of a result
    REFUSED = 4  # no key, a wrong key, or one whose role does not allow it
    UNREACHABLE = 5  # no service answers, or a part of it does not
    TIMED_OUT = 6  # what was waited for goes on
    INTERRUPTED = 130  # Ctrl-C
    PIPE_CLOSED = 141  # whoever read the output has gone


# By the problem's type; what is not here goes by its status.
CODES = {
    "wait-timed-out": Exit.TIMED_OUT,
    "connection-failed": Exit.UNREACHABLE,
    "unexpected-answer": Exit.UNREACHABLE,
    "rejected": Exit.FAILED,
    "computation-failed": Exit.FAILED,
    "export-failed": Exit.FAILED,
    "job-cancelled": Exit.FAILED,
}
STATUSES = {
    400: Exit.USAGE, 401: Exit.REFUSED, 403: Exit.REFUSED, 404: Exit.NOT_FOUND, 413: Exit.USAGE,
    422: Exit.USAGE, 502: Exit.UNREACHABLE, 503: Exit.UNREACHABLE, 504: Exit.UNREACHABLE,
}  # fmt: skip
WRONG_PATHS = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
FULL = (errno.ENOSPC, errno.EDQUOT)


def run(command: Callable[..., Any], arguments: Sequence[str]) -> int:
    """Runs the command; the exit code. What went wrong is one line on stderr, with --json a problem document."""
    as_json = "--json" in arguments
    try:
        ended = command(args=list(arguments), prog_name="upweight", standalone_mode=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        return pipe_closed()
    except Exception as error:
        return fail(error, as_json)
    return ended if isinstance(ended, int) else Exit.OK


def fail(error: Exception, as_json: bool) -> Exit:
    """Says what went wrong and gives back the code."""
    if (
        type(error).__name__ == "NoArgsIsHelpError"
    ):  # nothing is wrong but that nothing was asked for
        print(error.format_message(), file=sys.stderr)  # type: ignore[attr-defined]
        return Exit.USAGE
    words, code = described(error)
    line = f"upweight: {words}"
    if as_json:
        problem = getattr(error, "problem", None)
        document = problem().model_dump(mode="json", exclude_none=True) if problem else {
            "type": code.name.lower().replace("_", "-"), "detail": words,
        }  # fmt: skip
        line = json.dumps(document, ensure_ascii=False)
    print(line, file=sys.stderr)
    return code


def described(error: Exception) -> tuple[str, Exit]:
    """A failure's line and code."""
    from upweight.errors import UpweightError

    if isinstance(error, UpweightError):
        code = CODES.get(error.type) or STATUSES.get(error.status, Exit.FAILED)
        return _line(error.detail), code
    # The parser's errors are known by their method, wherever their class lives.
    message = getattr(error, "format_message", None)
    if message is not None:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "upweight"
        words = _line(message()).rstrip(".")
        return f"{words}{' See' if words.endswith('?') else '; see'} `{path} --help`", Exit.USAGE
    if isinstance(error, OSError):
        named = f"{error.filename}: " if error.filename else ""
        code = Exit.USAGE if isinstance(error, WRONG_PATHS) else Exit.FAILED
        full = error.errno in FULL and not named  # with a path, it says what is needed
        way = "; make room, or write to another disk" if full else ""
        return f"{named}{error.strerror or error}{way}", code
    if isinstance(error, ValueError | IndexError):
        return _line(str(error)), Exit.USAGE
    if type(error).__name__ == "Abort":
        return "stopped", Exit.INTERRUPTED
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(last.filename)}:{last.lineno}"
    return f"this should not happen, please report it: {error!r} at {where}", Exit.FAILED


def pipe_closed() -> Exit:
    """Nobody reads any more: nothing else is written, not even when Python flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Exit.PIPE_CLOSED


def _line(words: str) -> str:
    return " ".join(words.split())
