"""What a check that was taken over might do; called in the isolated child."""

import ctypes
import importlib
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn


def answer(**arguments: Any) -> dict[str, Any]:
    """The arguments, and what the child was given."""
    return {
        "arguments": arguments,
        "environment": dict(os.environ),
        "files": os.listdir("/proc/self/fd"),
        "has_torch": "torch" in sys.modules,
    }


def leave_a_mark() -> dict[str, Any]:
    """What it finds of those before it, where a child could leave something, and leaves for those after it."""
    found = [name for name in ("marked", "MARKED") if hasattr(os, name) or name in os.environ]
    os.marked, os.environ["MARKED"] = True, "yes"  # type: ignore[attr-defined]
    return {"found": found}


def signal(processes: list[int]) -> dict[str, Any]:
    """Those processes that it could kill."""
    reached = []
    for each in processes:
        try:
            os.kill(each, 9)
            reached.append(each)
        except (ProcessLookupError, PermissionError):
            continue
    return {"reached": reached}


def start_a_thread() -> None:
    """A preparation after which nothing can be forked."""
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()


def crash() -> None:
    """A preparation that ends the server."""
    os._exit(1)


def import_late() -> dict[str, Any]:
    """As if a file had come beside the packages since the child began: Python lists their folder anew."""
    importlib.invalidate_caches()
    return {
        "found": [
            importlib.import_module(each).__name__
            for each in ("service.settings", "upweight.schema")
        ]
    }


def allocate(size: int) -> dict[str, Any]:
    return {"size": len(bytearray(size))}


def allocate_tensor(size: int) -> dict[str, Any]:
    import torch

    return {"size": torch.zeros(size).numel()}


def sleep() -> dict[str, Any]:
    time.sleep(60)
    return {}


def nap() -> dict[str, Any]:
    time.sleep(2)
    return {"rested": True}


def spin() -> dict[str, Any]:
    while True:
        pass


def linger(path: str) -> dict[str, Any]:
    """Starts a process that would outlive the child."""
    code = f"import time, os; time.sleep(1.5); os.mkdir({path!r})"
    subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    return {}


def write(path: str) -> dict[str, Any]:
    Path(path).write_text("x")
    return {}


def read(target: str, path: str = "") -> dict[str, Any]:
    return {"content": Path(target).read_bytes().hex()}


def make_folder(target: str) -> dict[str, Any]:
    os.mkdir(target)
    return {}


def connect(port: int) -> dict[str, Any]:
    socket.create_connection(("127.0.0.1", port), 2).close()
    return {}


def segfault() -> dict[str, Any]:
    ctypes.string_at(0)
    return {}


def overrun() -> NoReturn:
    """Dies as a process does which the kernel kills."""
    resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
    while True:
        pass


def leave() -> NoReturn:
    os._exit(3)


def babble(size: int) -> NoReturn:
    """Writes nonsense where the answer belongs."""
    for descriptor in range(3, 20):
        try:
            for _ in range(size):
                os.write(descriptor, b"x" * (1 << 20))
        except OSError:
            continue
    os._exit(4)


def chatter() -> dict[str, Any]:
    """Prints, as libraries do."""
    os.write(1, b'{"kind": "report", "body": {"forged": true}}')
    os.write(2, b"x" * 1_000_000)
    return {"true": True}


def fail() -> dict[str, Any]:
    raise KeyError("surprise")


def imports(module: str) -> dict[str, Any]:
    """As a factory does that the operator has allowed."""
    return {"file": importlib.import_module(module).__file__}


def has_imported_all() -> None:
    """As the service's own server has, so that a fork need not look for our packages."""
    for package in ("upweight", "service"):
        importlib.import_module(package)


def served(first: int) -> Callable[..., dict[str, Any]]:
    """What a child that stays answers with."""
    counted = [first]

    def answer(what: str = "count", seconds: float = 0.0) -> dict[str, Any]:
        counted[0] += 1
        time.sleep(seconds)
        if what == "raise":
            raise ValueError("no such thing")
        if what == "die":
            os._exit(3)
        if what == "spin":
            while True:
                pass
        if what == "secrets":
            return {"environment": dict(os.environ), "files": os.listdir("/proc/self/fd")}
        return {"count": counted[0]}

    return answer
