"""This side of the guard: a process that outlives us just long enough to end our children."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Self

GUARD = Path(__file__).with_name("guard.py")


class Watchdog:
    """Whatever is guarded ends when this process does, even by SIGKILL.

    Guarded processes must lead a process group of their own (`start_new_session=True`): the whole group is killed.
    """

    def __init__(self, *, grace_seconds: float = 10.0, hold: IO[str] | None = None) -> None:
        """After SIGTERM, the guarded have the grace to end by themselves.

        `hold` is a locked file, whose lock then lasts until the last of the guarded has ended.
        """
        self._grace_seconds = grace_seconds
        self._hold = hold
        self._guarded: set[int] = set()
        self._process = self._spawn()

    @property
    def pid(self) -> int:
        """The guard's own process."""
        return self._process.pid

    def guard(self, pid: int) -> None:
        """From now on `pid` must not outlive us."""
        self._guarded.add(pid)
        self._tell(f"+{pid}\n")

    def release(self, pid: int) -> None:
        """`pid` has ended and been waited for; its number may soon be another's."""
        self._guarded.discard(pid)
        self._tell(f"-{pid}\n")

    def close(self) -> None:
        """End what is still guarded, then the guard."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        if self._process.stdin is None or self._process.stdin.closed:
            return  # already closed: it has ended them all
        try:
            self._write(line)
        except BrokenPipeError:  # somebody killed the guard: the next one is told everything again
            self._process.stdin.close()
            self._process.wait()
            self._process = self._spawn()
            for pid in self._guarded:
                self._write(f"+{pid}\n")

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode())

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARD), str(self._grace_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            pass_fds=() if self._hold is None else (self._hold.fileno(),),
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
