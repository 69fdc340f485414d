"""The isolated child, a question on stdin, an answer on stdout, or many of them a line each: a fork of the fork server,
which calls `main`, or `python -m workers.programs.child`.

Nothing untrusted is touched before the limits are set.
"""

import ctypes
import importlib
import importlib.util
import json
import os
import resource
import signal
import tempfile
from collections.abc import Callable
from typing import Any, BinaryIO

from workers.programs.confinement import NETWORK_SINCE, confine
from workers.programs.errors import CheckCrashed, CheckOutOfMemory, ProgramError

_NEW_USER, _NEW_NET, _NEW_IPC, _NEW_PID = 0x10000000, 0x40000000, 0x08000000, 0x20000000
_SET_PARENT_DEATH_SIGNAL, _SET_NO_NEW_PRIVILEGES = 1, 38
_OPEN_FILES = 256
_NO_MODULE = "upweight_no_such_module"  # looked for in every folder of code
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "bad_alloc", "out of memory")


def main() -> None:
    """Answers one question and ends; one that `serves` then goes on, a question and an answer a line."""
    answer = os.fdopen(os.dup(1), "wb")
    # Libraries print; the answer's pipe is ours alone.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    stdin = open(0, "rb", closefd=False)  # noqa: SIM115  (until the process ends)
    question = json.loads(stdin.readline())
    write_nowhere()
    given = question["arguments"]
    readable = [str(given[name]) for name in ("path", "adapter_path") if given.get(name)]
    # Their folder can't be listed afterwards, and Python lists it anew whenever anything beside them changes.
    for package in ("upweight", "service", question["call"].partition(".")[0]):
        importlib.import_module(package)
    # So a fork lists here what has changed since its parent looked: an operator's factory may be in such a folder.
    importlib.util.find_spec(_NO_MODULE)
    isolation = _isolate(question["memory_bytes"], question["cpu_s"], readable)
    if question.get("serves"):
        _serve(question["call"], question["arguments"], stdin, answer)
        os._exit(0)
    kind, body = _answer(question["call"], question["arguments"])
    if kind == "report":
        body = {**body, "isolation": isolation}
    answer.write(json.dumps({"kind": kind, "body": body}).encode())
    answer.flush()
    # Without the interpreter's shutdown, which a tampered torch could hang.
    os._exit(0)


def write_nowhere() -> None:
    """A child can't write, so looking for a folder to write to would fail, and so would making torch's cache."""
    tempfile.tempdir = os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.sep


def _isolate(memory_bytes: int, cpu_s: int, readable: list[str]) -> dict[str, bool]:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    alone = libc.unshare(_NEW_USER | _NEW_NET | _NEW_IPC | _NEW_PID) == 0
    libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if alone:
        _become_first_process()
        libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    for kind, bound in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        resource.setrlimit(kind, (bound, bound))
    confined = confine(readable)
    return {
        "network": alone or confined >= NETWORK_SINCE,
        "processes": alone,
        "files": confined > 0,
        "memory": True,
        "processor": True,
        "writes": True,
    }


def _become_first_process() -> None:
    """Goes on as the first process of the new namespace: with it, all that it started ends.

    No thread has been started, so forking is safe.
    """
    child = os.fork()
    if child == 0:
        return
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), -code)
    os._exit(code)


def _serve(call: str, arguments: dict[str, Any], stdin: BinaryIO, answer: BinaryIO) -> None:
    """The call answers a function, which answers each line."""
    serving: list[Callable[..., dict[str, Any]]] = []
    for line in stdin:
        asked = json.loads(line)

        def found(asked: dict[str, Any] = asked) -> dict[str, Any]:
            if not serving:
                serving.append(_called(call)(**arguments))
            return serving[0](**asked)

        kind, body = _outcome(found)
        answer.write(json.dumps({"kind": kind, "body": body}).encode() + b"\n")
        answer.flush()


def _called(call: str) -> Callable[..., Any]:
    place, _, name = call.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(place), name)
    return found


def _answer(call: str, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return _outcome(lambda: _called(call)(**arguments))


def _outcome(work: Callable[[], dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    try:
        return "report", work()
    except ProgramError as exc:
        if _is_memory(exc):
            return "problem", _memory_problem()
        return "problem", exc.as_dict()
    except BaseException as exc:
        if _is_memory(exc):
            return "problem", _memory_problem()
        return "problem", CheckCrashed(
            f"the check failed ({type(exc).__name__}: {str(exc)[:300]})"
        ).as_dict()


def _is_memory(exc: BaseException | None) -> bool:
    while exc is not None:
        if isinstance(exc, MemoryError) or any(word in str(exc) for word in _OUT_OF_MEMORY):
            return True
        exc = exc.__cause__
    return False


def _memory_problem() -> dict[str, str]:
    return CheckOutOfMemory(
        "the program needs more memory than a check may have: make it smaller, or ask the operator "
        "for a higher limit"
    ).as_dict()


if __name__ == "__main__":
    main()
