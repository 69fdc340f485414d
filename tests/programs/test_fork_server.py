"""The fork server holds nothing, survives its children, and outlives no worker."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE, until
from workers.programs.errors import CheckCrashed, CheckFailed, CheckTimedOut
from workers.programs.fork_server import ForkServer
from workers.programs.isolation import run_isolated

MEMORY = 4 << 30
ROOT = Path(__file__).parents[2]
# A worker of its own, which checks something that takes long and tells the server's number.
WORKER = """
import sys, threading
from workers.programs.fork_server import ForkServer
from workers.programs.isolation import run_isolated

server = ForkServer("tests.programs.misbehaviour:answer")
command = {"call": "tests.programs.misbehaviour:sleep"}
check = lambda: run_isolated(command, timeout_s=60, memory_bytes=4 << 30, server=server)
threading.Thread(target=check, daemon=True).start()
while server.pid is None:
    pass
print(server.pid, flush=True)
sys.stdin.read()
"""


def run(server: ForkServer, name: str, *, timeout_s: float = PATIENCE, **arguments: Any) -> Any:
    """Calls a misbehaving function in a fork."""
    command = {"call": f"tests.programs.misbehaviour:{name}", "arguments": arguments}
    return run_isolated(command, timeout_s=timeout_s, memory_bytes=MEMORY, server=server)


@contextmanager
def started(prepare: str = "answer") -> Iterator[ForkServer]:
    """A server that is quick to start: it prepares nothing."""
    server = ForkServer(f"tests.programs.misbehaviour:{prepare}")
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def beside(server: ForkServer, name: str, **arguments: Any) -> Iterator[list[Any]]:
    """While another check runs; what it came to is in the list afterwards."""
    outcome: list[Any] = []

    def check() -> None:
        try:
            outcome.append(run(server, name, **arguments))
        except CheckFailed as error:
            outcome.append(error)

    thread = threading.Thread(target=check)
    thread.start()
    until(lambda: children(server.pid))
    yield outcome
    thread.join()


def children(process: int | None) -> list[int]:
    """The children of a process, and theirs."""
    if process is None:
        return []
    try:
        found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [each for child in found for each in (int(child), *children(int(child)))]


def lives(process: int) -> bool:
    """Whether it does something still."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][:1] not in "ZX"
    except OSError:
        return False


def test_checks_are_forks_that_have_torch_already(fork_server: ForkServer) -> None:
    assert run(fork_server, "answer")["has_torch"]


def test_server_gets_no_environment_and_no_files_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "hunter2")
    with open(__file__) as held, started() as server:
        os.set_inheritable(held.fileno(), True)
        with beside(server, "sleep", timeout_s=2):
            report = run(server, "answer")
            # Its three streams, and of the other check its process and its leash. What it had of the check that has
            # just answered it closes in a moment, as the answer comes first.
            until(lambda: len(os.listdir(f"/proc/{server.pid}/fd")) <= 5)
            environment = Path(f"/proc/{server.pid}/environ").read_bytes()
    assert "SECRET_KEY" not in report["environment"]
    assert b"hunter2" not in environment
    assert set(report["files"]) <= {"0", "1", "2", "3", "4", "5"}


def test_checks_leave_nothing_for_the_next(fork_server: ForkServer) -> None:
    assert [run(fork_server, "leave_a_mark")["found"] for _ in range(2)] == [[], []]


def test_check_reaches_neither_the_server_nor_another_check(fork_server: ForkServer) -> None:
    isolation = run(fork_server, "answer")["isolation"]
    if not isolation["processes"]:
        pytest.skip("namespaces are not permitted here; the report says processes: false")
    server = fork_server.pid
    assert server is not None
    with beside(fork_server, "nap") as outcome:
        others = [server, os.getpid(), *children(server)]
        assert run(fork_server, "signal", processes=others)["reached"] == []
        if isolation["files"]:
            for other in others:
                with pytest.raises(CheckCrashed, match=r"PermissionError|OSError|FileNotFound"):
                    run(fork_server, "read", target=f"/proc/{other}/environ")
    assert outcome[0]["rested"]
    assert fork_server.pid == server


def test_what_a_child_writes_anywhere_does_not_reach_the_server(fork_server: ForkServer) -> None:
    assert run(fork_server, "answer")
    server = fork_server.pid
    with pytest.raises(CheckFailed):
        run(fork_server, "babble", size=1)
    assert run(fork_server, "answer")["has_torch"]
    assert fork_server.pid == server


@pytest.mark.parametrize("end", ["segfault", "overrun", "leave", "sleep"])
def test_child_that_is_killed_does_not_harm_the_next(end: str) -> None:
    with started() as server:
        with beside(server, "nap") as outcome:
            with pytest.raises(CheckFailed):
                run(server, end, timeout_s=4)
            assert run(server, "answer")["arguments"] == {}
        assert outcome[0]["rested"]


def test_crash_brings_a_server_with_another_layout_of_memory() -> None:
    with started() as server:
        run(server, "answer")
        first = server.pid
        with pytest.raises(CheckCrashed):
            run(server, "segfault")
        run(server, "answer")
        assert server.pid != first
        assert first is not None
        until(lambda: not lives(first))


def test_time_that_is_over_ends_the_child() -> None:
    with started() as server:
        with pytest.raises(CheckTimedOut):
            run(server, "sleep", timeout_s=0.5)
        until(lambda: not children(server.pid))


def test_server_that_dies_is_replaced_and_its_check_is_done_without_it() -> None:
    with started() as server:
        with beside(server, "nap") as outcome:
            first = server.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
        assert outcome[0]["rested"]
        with beside(server, "nap"):
            assert server.pid != first
            assert children(server.pid)


@pytest.mark.parametrize("prepare", ["start_a_thread", "crash"])
def test_checks_run_without_a_server_that_can_not_fork(prepare: str) -> None:
    with started(prepare) as server:
        for _ in range(4):
            assert run(server, "answer")["arguments"] == {}
        assert server.pid is None


def test_server_and_children_end_with_a_worker_that_is_killed() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", WORKER]
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe) as worker:
        assert worker.stdout is not None
        server = int(worker.stdout.readline())
        until(lambda: children(server))
        processes = [server, *children(server)]
        worker.kill()
    until(lambda: not any(map(lives, processes)))


def test_a_factory_is_found_in_a_folder_that_has_changed_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "allowed_factory"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with started("has_imported_all") as server:
        run(server, "answer")
        (tmp_path / "another.txt").touch()
        assert run(server, "imports", module="allowed_factory")["file"].startswith(str(package))
