"""A process that has imported torch and holds nothing else: each check gets a fork of it, in milliseconds.

Importing torch and using its transforms for the first time takes seconds, which a fresh interpreter for each check
would spend again and again. The server is a fresh interpreter with an empty environment, which holds no file but one
end of a socket. It reads nothing: a request is three descriptors, two of which are the child's question and its
answer, and only a child reads the question. So there is nothing in it to steal, and no child can leave anything for
the next.

A fork has one thread, and what other threads had locked stays locked. The server therefore counts its threads before
each fork, and ends when they are more than one; so it does where a kernel lacks what it needs. Checks then run in fresh
interpreters. Forks have the same layout of memory: who learns addresses by crashing children learns nothing about the
worker, and a crash retires the server (`ForkServer.retire`).

The third descriptor is a leash. The child's status comes back on it, and when it is let go of, which the worker's
death brings about as well, the child is killed with its process group. A child dies with the server, and the server
ends when the worker does.
"""

import ctypes
import gc
import importlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from typing import BinaryIO

from service.logs import log

_MODULE = "workers.programs.fork_server"
_START_S = 60.0  # for imports, on a busy machine
_LAST_WORDS_S = 0.2
_KILL_S = 5.0
_STATUS = struct.Struct("i")
_UNFIT = 3  # exit status: it can't fork here
_TRIES = 3  # deaths before it was ever ready, after which there is none
_SET_PARENT_DEATH_SIGNAL = 1


def clean_interpreter(
    module: str, *arguments: str, stdin: int, stdout: int
) -> subprocess.Popen[bytes]:
    """A fresh interpreter that runs one of our modules, with an empty environment and no files but these."""
    environment = {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        # Arenas reserve address space, which is what the limit counts.
        "MALLOC_ARENA_MAX": "2",
        # Nothing is computed on an accelerator, whose runtime would start threads.
        "CUDA_VISIBLE_DEVICES": "",
    }
    return subprocess.Popen(
        [sys.executable, "-B", "-s", "-P", "-m", module, *arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd="/",
        close_fds=True,
        start_new_session=True,
    )


class Forked:
    """A child of the server, from the worker's side: its question goes to `stdin`, its answer comes from `stdout`."""

    def __init__(self, stdin: BinaryIO, stdout: BinaryIO, leash: socket.socket) -> None:
        self.stdin, self.stdout = stdin, stdout
        self._leash = leash

    def end(self) -> int | None:
        """Kills what is left of the child; its status as `subprocess` has it, None if the server has died with it."""
        status = self._status(_LAST_WORDS_S)
        if status is None:
            with suppress(OSError):
                self._leash.shutdown(socket.SHUT_WR)
            status = self._status(_KILL_S)
        self._leash.close()
        return status

    def _status(self, seconds: float) -> int | None:
        self._leash.settimeout(seconds)
        try:
            status = self._leash.recv(_STATUS.size)
        except OSError:
            return None
        return int(_STATUS.unpack(status)[0]) if len(status) == _STATUS.size else None


class ForkServer:
    """The server of this process: begun by `start`, begun again after its death. It ends with this process.

    `prepare` is a function of our own, `module:name`, that does once what checks do first.
    """

    def __init__(self, prepare: str) -> None:
        self._prepare = prepare
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._retired: list[subprocess.Popen[bytes]] = []
        self._ready = False
        self._tries = _TRIES if sys.platform == "linux" else 0

    @property
    def pid(self) -> int | None:
        """The process, once it has been begun."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Begins it and returns at once: it is ready some seconds later."""
        with self._lock:
            self._begin()

    def fork(self) -> Forked | None:
        """A child that waits for its question; None where the server can't be had."""
        with self._lock:
            self._begin()
            if self._is_ready():
                # A BrokenPipeError says that it has died since.
                with suppress(OSError):
                    return self._asked()
            return None

    def retire(self) -> None:
        """Another one, with another layout of memory, takes its place; the children that it has are left in peace."""
        with self._lock:
            self._let_go()
            self._begin()

    def stop(self) -> None:
        """Ends it, with its children."""
        with self._lock:
            self._let_go()
            for process in self._retired:
                process.kill()
                process.wait()
            self._retired.clear()

    def _begin(self) -> None:
        self._retired = [each for each in self._retired if each.poll() is None]
        if self._process is not None:
            status = self._process.poll()
            if status is None:
                return
            self._tries = 0 if status == _UNFIT else _TRIES if self._ready else self._tries - 1
            log("fork-server-ended", level="warning", status=status, tries_left=self._tries)
            self._let_go()
        if self._tries > 0:
            self._control, theirs = socket.socketpair()
            with theirs:
                self._process = clean_interpreter(
                    _MODULE, self._prepare, stdin=theirs.fileno(), stdout=subprocess.DEVNULL
                )

    def _is_ready(self) -> bool:
        if not self._ready and self._control is not None:
            self._control.settimeout(_START_S)
            with suppress(TimeoutError):
                self._ready = bool(self._control.recv(1))
        return self._ready

    def _asked(self) -> Forked:
        assert self._control is not None
        question, to_child = os.pipe()
        from_child, answer = os.pipe()
        leash, theirs = socket.socketpair()
        try:
            socket.send_fds(self._control, [b"c"], [question, answer, theirs.fileno()])
        except OSError:
            for each in (to_child, from_child):
                os.close(each)
            leash.close()
            raise
        finally:
            os.close(question)
            os.close(answer)
            theirs.close()
        return Forked(os.fdopen(to_child, "wb"), os.fdopen(from_child, "rb"), leash)

    def _let_go(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None and self._process.poll() is None:
            self._retired.append(self._process)
        self._process = self._control = None
        self._ready = False


def main(prepare: str) -> None:
    """The server itself: `python -m workers.programs.fork_server module:name`, with the socket as its stdin."""
    from workers.programs import child

    control = socket.socket(fileno=0)
    child.write_nowhere()
    # What is imported stays: there is nothing to collect, and pages that no collector touches are shared with forks.
    gc.disable()
    place, _, name = prepare.partition(":")
    getattr(importlib.import_module(place), name)()
    gc.collect()
    gc.freeze()
    gc.enable()
    _require_fit()
    with suppress(BrokenPipeError):
        control.send(b"r")
    question, answer = _serve(control)
    # From here on it is a child.
    os.dup2(question, 0)
    os.dup2(answer, 1)
    for each in os.listdir("/proc/self/fd"):
        if int(each) > 2:
            with suppress(OSError):
                os.close(int(each))
    child.main()


def _require_fit() -> None:
    try:
        os.close(os.pidfd_open(os.getpid()))
        threads = len(os.listdir("/proc/self/task"))
    except (AttributeError, OSError):  # another kernel
        threads = 0
    if threads != 1:
        os._exit(_UNFIT)


def _serve(control: socket.socket) -> tuple[int, int]:
    """Forks until the worker lets go and no child is left. Returns in a child: the ends of its question and answer.

    Poll takes plain numbers: a child has no object whose end would close a descriptor that it has opened itself.
    """
    itself = os.getpid()
    poll = select.poll()
    poll.register(control.fileno(), select.POLLIN)
    leashes: dict[
        int, tuple[int, int]
    ] = {}  # of each child, by what tells its end: its process, its leash
    serving = True
    while serving or leashes:
        # One event at a time: each may close what another is about.
        descriptor, _ = poll.poll()[0]
        if descriptor == control.fileno():
            _, received, _, _ = socket.recv_fds(control, 1, 3)
            if len(received) != 3:
                poll.unregister(descriptor)
                serving = False
                continue
            question, answer, leash = received
            _require_fit()
            process = os.fork()
            if process == 0:
                _belong_to(itself)
                control.detach()
                return question, answer
            os.close(question)
            os.close(answer)
            end = os.pidfd_open(process)
            leashes[end] = process, leash
            poll.register(end, select.POLLIN)
            poll.register(leash, select.POLLIN)
        elif descriptor in leashes:
            process, leash = leashes.pop(descriptor)
            _kill(process)  # what it has started; it is not reaped yet, so its number is its own
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            with suppress(OSError):
                os.write(leash, _STATUS.pack(status))
            for each in (descriptor, leash):
                with suppress(KeyError):
                    poll.unregister(each)
                os.close(each)
        else:  # a leash was let go of
            _kill(next(process for process, leash in leashes.values() if leash == descriptor))
            poll.unregister(descriptor)
    os._exit(0)


def _belong_to(server: int) -> None:
    os.setsid()
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != server:  # it died before this could be told
        os._exit(1)


def _kill(process: int) -> None:
    for send in (os.killpg, os.kill):  # its group is not there before it has made one
        with suppress(ProcessLookupError, PermissionError):
            send(process, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1])
