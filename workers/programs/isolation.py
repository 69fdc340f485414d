"""Runs a check of something untrusted in a process of its own, which is given nothing to steal.

The child is a fresh interpreter (never a fork: torch's threads do not survive one) with an empty
environment but for the import path, no open files but its pipes, and limits on address space,
processor time, file size (nothing can be written) and core dumps. It dies with its parent, and is
killed, with all its process group, when its time is over.

Where the kernel lets an ordinary process make namespaces, the child has no network, and everything it
started dies with it. Where it has Landlock (`confinement`), the child reads nothing but code and the
file it checks, makes no file, and can't look into other processes: their environment holds the
worker's credentials. The report's `isolation` says which of it holds. Where neither does, a child that
was taken over can open sockets, read what the worker's user may read, and signal the user's other
processes. Run the workers in a container of their own all the same.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, BinaryIO

from workers.programs.errors import (
    CheckCrashed,
    CheckDied,
    CheckFailed,
    CheckOutOfMemory,
    CheckTimedOut,
    from_dict,
)

_ANSWER_BYTES = 64 << 20
_CHILD = "workers.programs.child"
_LAST_WORDS_S = 0.2


def run_isolated(
    command: Mapping[str, Any], *, timeout_s: float, memory_bytes: int
) -> dict[str, Any]:
    """The report which a function gives for arguments that are not to be trusted.

    `command` is `{"call": "workers.programs.check:check_program", "arguments": {...}}`: the call
    comes from our own code, the arguments and the report are JSON. `memory_bytes` bounds the whole
    address space, of which Python with torch takes 0.7 GB. A problem in the child is raised here as
    the same ProgramError; its death is a CheckFailed.
    """
    question = {
        "call": command["call"],
        "arguments": command.get("arguments", {}),
        "memory_bytes": memory_bytes,
        "cpu_s": max(1, int(timeout_s) + 1),
    }
    process = _start()
    try:
        answer = _converse(process, json.dumps(question).encode(), timeout_s)
    finally:
        _end(process)
    return _report(answer, process.returncode)


def _start() -> subprocess.Popen[bytes]:
    environment = {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        # Arenas reserve address space, which is what the limit counts.
        "MALLOC_ARENA_MAX": "2",
    }
    return subprocess.Popen(
        [sys.executable, "-B", "-s", "-P", "-m", _CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd="/",
        close_fds=True,
        start_new_session=True,
    )


def _converse(process: subprocess.Popen[bytes], question: bytes, timeout_s: float) -> bytes:
    answer: list[bytes] = []
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None
    talk = threading.Thread(target=_talk, args=(stdin, stdout, question, answer), daemon=True)
    talk.start()
    talk.join(timeout_s)
    if talk.is_alive():
        _end(process)
        talk.join()
        raise CheckTimedOut(
            f"the check took longer than {timeout_s:g} s and was stopped: the program is too "
            "large or too slow for the limits of this service"
        )
    return answer[0]


def _talk(stdin: BinaryIO, stdout: BinaryIO, question: bytes, answer: list[bytes]) -> None:
    # A child that died before it listened shows in the missing answer.
    with suppress(BrokenPipeError), stdin:
        stdin.write(question)
    answer.append(stdout.read(_ANSWER_BYTES + 1))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills what is left of the child and of all it started; a child that ended loses nothing."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(_LAST_WORDS_S)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _report(answer: bytes, status: int) -> dict[str, Any]:
    """Reads the answer as what it is: the words of a process that may have been taken over."""
    if not answer or len(answer) > _ANSWER_BYTES:
        raise _death(status)
    try:
        content = json.loads(answer)
        kind, body = content["kind"], content["body"]
        if kind == "report" and isinstance(body, dict):
            return body
        if kind == "problem" and all(isinstance(body[key], str) for key in ("code", "message")):
            raise from_dict(body)
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise _death(status) from exc
    raise _death(status)


def _death(status: int) -> CheckFailed:
    if status == -signal.SIGXCPU:
        return CheckTimedOut("the check used up its processor time and was stopped")
    if status in {-signal.SIGKILL, -signal.SIGABRT}:
        return CheckOutOfMemory(
            "the check was killed, most likely for want of memory: the program is too large for "
            "the limits of this service"
        )
    if status < 0:
        return CheckDied(
            f"running the program ended the check's process ({signal.Signals(-status).name}): one of its operators "
            "gets shapes or values that torch can't take. Export the model as it is, with torch 2.13"
        )
    return CheckCrashed(f"the check of the program died (exit status {status}): it is refused")
