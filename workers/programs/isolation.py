"""Runs a check of something untrusted in a process of its own, which is given nothing to steal.

The child has an empty environment but for the import path, no open files but its pipes, and limits on address space,
processor time, file size (nothing can be written) and core dumps. It dies with its parent, and is
killed, with all its process group, when its time is over. It is a fork of a `ForkServer`, which has imported torch, has
one thread and holds nothing; never of the worker, whose memory has credentials and whose threads do not survive a
fork. Where there is no such server it is a fresh interpreter.

Where the kernel lets an ordinary process make namespaces, the child has no network, and everything it
started dies with it. Where it has Landlock (`confinement`), the child reads nothing but code and the
file it checks, makes no file, and can't look into other processes: their environment holds the
worker's credentials. The report's `isolation` says which of it holds. Where neither does, a child that
was taken over can open sockets, read what the worker's user may read, and signal the user's other
processes. Run the workers in a container of their own all the same.
"""

import json
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, BinaryIO

from workers.programs.errors import (
    TORCH,
    CheckCrashed,
    CheckDied,
    CheckFailed,
    CheckOutOfMemory,
    CheckTimedOut,
    from_dict,
)
from workers.programs.fork_server import Forked, ForkServer, clean_interpreter

_ANSWER_BYTES = 64 << 20
_CHILD = "workers.programs.child"
_LAST_WORDS_S = 0.2
_LOOK_S = 0.1


def run_isolated(
    command: Mapping[str, Any],
    *,
    timeout_s: float,
    memory_bytes: int,
    server: ForkServer | None = None,
    look: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The report which a function gives for arguments that are not to be trusted.

    `command` is `{"call": "workers.programs.check:check_program", "arguments": {...}}`: the call
    comes from our own code, the arguments and the report are JSON. `memory_bytes` bounds the whole
    address space, of which Python with torch takes 0.7 GB. `server` forks the child, if it can. `look`
    is called several times a second; what it raises ends the child and goes on. A
    problem in the child is raised here as the same ProgramError; its death is a CheckFailed.
    """
    question = {
        "call": command["call"],
        "arguments": command.get("arguments", {}),
        "memory_bytes": memory_bytes,
        "cpu_s": max(1, int(timeout_s) + 1),
    }
    request = json.dumps(question).encode()
    forked = server.fork() if server is not None else None
    if forked is not None:
        answer, status = _converse(forked, request, timeout_s, look)
        if status is not None:
            if server is not None and status < 0:
                server.retire()
            return _report(answer, status)
    # There is no server, or it has died, and the child with it.
    answer, status = _converse(_Fresh(), request, timeout_s, look)
    assert status is not None
    return _report(answer, status)


class Served:
    """A child that stays, and answers one question after another; as isolated as one that answers once.

    `command` as for `run_isolated`, but the call answers a function of a question's fields. Used by one thread.
    """

    def __init__(
        self,
        command: Mapping[str, Any],
        *,
        cpu_s: float,
        memory_bytes: int,
        server: ForkServer | None = None,
    ) -> None:
        """`cpu_s`: processor time, of all its questions; then it ends."""
        first = {**command, "memory_bytes": memory_bytes, "cpu_s": int(cpu_s), "serves": True}
        forked = server.fork() if server is not None else None
        self._child: Forked | _Fresh = _Fresh() if forked is None else forked
        self._unread = b""
        self._status: int | None = None
        self._write(first)

    def ask(self, question: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Its answer. Raises a ProgramError; after CheckFailed it has ended."""
        self._write(question)
        line = self._line(time.monotonic() + timeout_s)
        if line is None:
            self.end()
            raise CheckTimedOut(f"it took longer than {timeout_s:g} s and was stopped")
        if not line:
            raise _death(self.end() or 0)
        return _report(line, 0)

    def end(self) -> int | None:
        """Its status; None where that can't be known. A second time does nothing."""
        if not self._child.stdout.closed:
            with suppress(OSError):
                self._child.stdin.close()
            self._status = self._child.end()
            self._child.stdout.close()
        return self._status

    def _write(self, message: Mapping[str, Any]) -> None:
        # A child that has died shows in the missing answer.
        with suppress(BrokenPipeError):
            self._child.stdin.write(json.dumps(message).encode() + b"\n")
            self._child.stdin.flush()

    def _line(self, deadline: float) -> bytes | None:
        """The next line; empty where the child has ended or says too much, None where time is over."""
        out = self._child.stdout.fileno()
        while b"\n" not in self._unread:
            if len(self._unread) > _ANSWER_BYTES:
                return b""
            ready, _, _ = select.select([out], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            piece = os.read(out, 1 << 16)
            if not piece:
                return b""
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        return line


class _Fresh:
    """A child that is an interpreter of its own; as `Forked`."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self._process = clean_interpreter(_CHILD, stdin=pipe, stdout=pipe)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.stdin, self.stdout = self._process.stdin, self._process.stdout

    def end(self) -> int:
        """Kills what is left of the child and of all it started; a child that ended loses nothing."""
        process = self._process
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LAST_WORDS_S)
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            process.kill()
        return process.wait()


def _converse(
    child: Forked | _Fresh, question: bytes, timeout_s: float, look: Callable[[], None]
) -> tuple[bytes, int | None]:
    """What the child answers, and its status."""
    answer: list[bytes] = []
    talk = threading.Thread(
        target=_talk, args=(child.stdin, child.stdout, question, answer), daemon=True
    )
    try:
        talk.start()
        deadline = time.monotonic() + timeout_s
        while talk.is_alive() and (left := deadline - time.monotonic()) > 0:
            talk.join(min(left, _LOOK_S))
            look()
        timed_out = talk.is_alive()
    finally:
        status = child.end()
    if timed_out:
        talk.join(_LAST_WORDS_S)
        raise CheckTimedOut(
            f"the check took longer than {timeout_s:g} s and was stopped: the program is too "
            "large or too slow for the limits of this service"
        )
    return answer[0], status


def _talk(stdin: BinaryIO, stdout: BinaryIO, question: bytes, answer: list[bytes]) -> None:
    # A child that died before it listened shows in the missing answer.
    with suppress(BrokenPipeError), stdin:
        stdin.write(question)
    with stdout:
        answer.append(stdout.read(_ANSWER_BYTES + 1))


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
            f"gets shapes or values that torch can't take. Export the model as it is, with {TORCH}"
        )
    return CheckCrashed(f"the check of the program died (exit status {status}): it is refused")
