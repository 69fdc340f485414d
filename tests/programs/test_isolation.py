"""The isolated child has nothing to steal, can't write, and always ends."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.programs.tampering import GRAPH, edit, first_node
from workers.programs.errors import (
    CheckCrashed,
    CheckFailed,
    CheckOutOfMemory,
    CheckTimedOut,
    GraphInvalid,
    OutputUnsupported,
    PickleRefused,
)
from workers.programs.fork_server import ForkServer
from workers.programs.isolation import Served, run_isolated

MEMORY = 4 << 30
ENDLESS = 60  # seconds that the child would sleep or spin, if nobody ended it


Run = Callable[..., dict[str, Any]]
Check = Callable[[Path], dict[str, Any]]


@pytest.fixture(params=["fork", "fresh interpreter"])
def run(request: pytest.FixtureRequest) -> Run:
    """Calls a misbehaving function in the child, which is made in both ways."""
    forks = request.param == "fork"
    server: ForkServer | None = request.getfixturevalue("fork_server") if forks else None
    return partial(misbehave, server)


def misbehave(
    server: ForkServer | None,
    name: str,
    *,
    timeout_s: float = PATIENCE,
    look: Callable[[], None] = lambda: None,
    **arguments: Any,
) -> dict[str, Any]:
    """Calls a misbehaving function in the child."""
    command = {"call": f"tests.programs.misbehaviour:{name}", "arguments": arguments}
    return run_isolated(command, timeout_s=timeout_s, memory_bytes=MEMORY, server=server, look=look)


@pytest.fixture
def check(fork_server: ForkServer) -> Check:
    """Checks an archive in the child."""

    def checked(path: Path) -> dict[str, Any]:
        arguments = {"format": "pt2", "path": str(path)}
        command = {"call": "workers.programs.check:check_program", "arguments": arguments}
        return run_isolated(command, timeout_s=PATIENCE, memory_bytes=MEMORY, server=fork_server)

    return checked


def test_child_gets_no_environment_and_no_files(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "hunter2")
    with open(__file__) as held:
        os.set_inheritable(held.fileno(), True)
        report = run("answer", x=[1, {"y": None}])
    assert report["arguments"] == {"x": [1, {"y": None}]}
    assert "SECRET_KEY" not in report["environment"]
    assert "HOME" not in report["environment"]
    assert len(report["files"]) <= 6
    assert report["isolation"]["memory"] is True


def test_packages_are_found_although_the_folder_around_them_changes(run: Run) -> None:
    assert run("import_late")["found"] == ["service.settings", "upweight.schema"]


@pytest.mark.parametrize("name", ["allocate", "allocate_tensor"])
def test_too_much_memory_is_told(run: Run, name: str) -> None:
    with pytest.raises(CheckOutOfMemory, match="memory"):
        run(name, size=8 << 30)


@pytest.mark.parametrize("name", ["sleep", "spin"])
def test_too_much_time_is_told(run: Run, name: str) -> None:
    run("answer")  # the server is ready
    start = time.monotonic()
    with pytest.raises(CheckTimedOut, match="longer than 1 s"):
        run(name, timeout_s=1)
    assert time.monotonic() - start < ENDLESS


@pytest.mark.parametrize("name", ["sleep", "spin"])
def test_what_a_look_raises_ends_the_child(run: Run, name: str) -> None:
    def unwanted() -> None:
        raise InterruptedError

    run("answer")
    start = time.monotonic()
    with pytest.raises(InterruptedError):
        run(name, look=unwanted)
    assert time.monotonic() - start < ENDLESS


def test_nothing_the_child_started_outlives_it(run: Run, tmp_path: Path) -> None:
    report = run("linger", path=str(tmp_path / "alive"))
    if not report["isolation"]["processes"]:
        pytest.skip("namespaces are not permitted here; the report says processes: false")
    time.sleep(2)
    assert not (tmp_path / "alive").exists()


def test_child_can_write_no_file(run: Run, tmp_path: Path) -> None:
    with pytest.raises(CheckCrashed, match=r"OSError|PermissionError"):
        run("write", path=str(tmp_path / "written"))
    written = tmp_path / "written"
    assert not written.exists() or written.stat().st_size == 0


def confined(run: Run) -> None:
    if not run("answer")["isolation"]["files"]:
        pytest.skip("this kernel has no Landlock; the report says files: false")


def test_child_reads_code_and_its_file_and_nothing_else(run: Run, tmp_path: Path) -> None:
    confined(run)
    given, other = tmp_path / "given", tmp_path / "credentials"
    given.write_text("program")
    other.write_text("secret")
    assert run("read", path=str(given), target=str(given))["content"] == b"program".hex()
    for target in (other, Path("/etc/passwd"), Path.home() / ".bashrc", tmp_path):
        with pytest.raises(CheckCrashed, match="PermissionError"):
            run("read", path=str(given), target=str(target))
    link = tmp_path / "link"
    link.symlink_to(other)
    with pytest.raises(CheckCrashed, match="PermissionError"):
        run("read", path=str(given), target=str(link))


def test_child_can_not_look_into_the_worker(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment has the credentials of the object storage."""
    confined(run)
    for name in ("environ", "mem", "maps"):
        with pytest.raises(CheckCrashed, match=r"PermissionError|OSError"):
            run("read", target=f"/proc/{os.getpid()}/{name}")


def test_child_makes_no_folder(run: Run, tmp_path: Path) -> None:
    confined(run)
    with pytest.raises(CheckCrashed, match="PermissionError"):
        run("make_folder", target=str(tmp_path / "made"))
    assert not (tmp_path / "made").exists()


def test_child_has_no_network_where_the_report_says_so(run: Run) -> None:
    isolated = run("answer")["isolation"]["network"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if not isolated:
            pytest.skip("namespaces are not permitted here; the report says network: false")
        with pytest.raises(CheckCrashed, match=r"refused|unreachable|Permission denied"):
            run("connect", port=port)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("segfault", {}, "SIGSEGV.*shapes or values that torch can't take"),
        ("leave", {}, "exit status 3"),
        ("fail", {}, "KeyError"),
    ],
)
def test_death_of_the_child_is_told(
    run: Run, name: str, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(CheckCrashed, match=words):
        run(name, **arguments)


def test_a_killed_child_is_told_as_short_of_memory(run: Run) -> None:
    with pytest.raises(CheckOutOfMemory):
        run("overrun")


@pytest.mark.parametrize("size", [1, 100])
def test_a_child_that_babbles_is_not_believed(run: Run, size: int) -> None:
    with pytest.raises((CheckCrashed, CheckOutOfMemory, CheckTimedOut)):
        run("babble", size=size, timeout_s=10)


def test_prints_are_no_answer(run: Run) -> None:
    assert "forged" not in run("chatter")


def test_report_describes_the_program(check: Check, mlp: Path) -> None:
    report = check(mlp)
    assert report["inputs"] == [
        {"name": "input", "dtype": "float32", "shape": [None, 4], "example": [4, 4]}
    ]
    assert report["outputs"] == [{"name": "output", "dtype": "float32", "shape": [None, 3]}]
    assert [spec["name"] for spec in report["parameters"]][:2] == ["0.weight", "0.bias"]
    assert set(report["transforms"].values()) == {None}


def test_problem_comes_back_as_the_same_error(check: Check, tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(b"\x80\x04")
    with pytest.raises(PickleRefused) as caught:
        check(tmp_path / "m.pkl")
    assert caught.value.field == "/program/blob"


def test_rows_that_depend_on_each_other_are_refused(
    check: Check, mlp: Path, tmp_path: Path
) -> None:
    def change(document: dict[str, Any]) -> None:
        node = first_node(document, "torch.ops.aten.tanh.default")
        node["target"] = "torch.ops.aten.softmax.int"
        node["inputs"].append({"name": "dim", "arg": {"as_int": 0}, "kind": 1})

    with pytest.raises(
        OutputUnsupported, match=r"depends on the other rows.*softmax_int.*module '1'"
    ):
        check(edit(mlp, tmp_path / "m.pt2", GRAPH, change))


def test_a_graph_that_fails_when_run_is_refused(check: Check, mlp: Path, tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        node = first_node(document, "torch.ops.aten.tanh.default")
        node["target"] = "torch.ops.aten.reshape.default"
        node["inputs"].append({"name": "shape", "arg": {"as_ints": [4, 8]}, "kind": 1})

    with pytest.raises(GraphInvalid, match="fails on rows made up"):
        check(edit(mlp, tmp_path / "m.pt2", GRAPH, change))


def test_a_graph_that_wants_all_memory_is_refused(check: Check, mlp: Path, tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        node = first_node(document, "torch.ops.aten.tanh.default")
        node["target"] = "torch.ops.aten.repeat.default"
        node["inputs"].append(
            {"name": "repeats", "arg": {"as_ints": [1 << 20, 1 << 10]}, "kind": 1}
        )

    with pytest.raises(CheckOutOfMemory):
        check(edit(mlp, tmp_path / "m.pt2", GRAPH, change))


@pytest.fixture(params=["fork", "fresh interpreter"])
def staying(request: pytest.FixtureRequest) -> Iterator[Callable[..., Served]]:
    """Makes children that stay, in both ways."""
    forks = request.param == "fork"
    server: ForkServer | None = request.getfixturevalue("fork_server") if forks else None
    command = {"call": "tests.programs.misbehaviour:served", "arguments": {"first": 3}}
    with ExitStack() as made:

        def served(cpu_s: float = ENDLESS) -> Served:
            child = Served(command, cpu_s=cpu_s, memory_bytes=MEMORY, server=server)
            made.callback(child.end)
            return child

        yield served


def test_a_child_that_stays_answers_one_after_another(staying: Callable[..., Served]) -> None:
    child = staying()
    assert [child.ask({}, PATIENCE)["count"] for _ in range(3)] == [4, 5, 6]
    with pytest.raises(CheckCrashed, match="no such thing"):
        child.ask({"what": "raise"}, PATIENCE)
    assert child.ask({}, PATIENCE)["count"] == 8


def test_a_child_that_stays_is_given_nothing_either(
    staying: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "hunter2")
    found = staying().ask({"what": "secrets"}, PATIENCE)
    assert "SECRET_KEY" not in found["environment"]
    assert len(found["files"]) <= 6


def test_a_child_that_stays_ends_with_its_time_and_when_it_dies(
    staying: Callable[..., Served],
) -> None:
    with pytest.raises(CheckTimedOut, match="stopped"):
        staying().ask({"seconds": ENDLESS}, 0.5)
    with pytest.raises(
        CheckFailed
    ):  # killed: the first process of a namespace hears no other signal
        staying(cpu_s=1).ask({"what": "spin"}, PATIENCE)
    child = staying()
    with pytest.raises(CheckCrashed, match="exit status 3"):
        child.ask({"what": "die"}, PATIENCE)
