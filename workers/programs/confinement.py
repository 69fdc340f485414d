"""Confines this process to the files it needs, by Landlock: Linux from 5.13 on, no privilege needed, for good.

What stays readable is code (Python, its packages, the system's libraries) and the files that are named. Nothing can be
written, and the memory and environment of processes outside can't be looked into. From Linux 6.7 on no TCP connection
can be made, and from 6.12 on no process outside be sent a signal.
"""

import ctypes
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # system calls, the same on every architecture
_VERSION, _BENEATH = 1, 1
_EXECUTE, _READ_FILE, _READ_FOLDER, _WRITE_FILE = 1, 4, 8, 2
_ALL_ACCESS = {1: 13, 2: 14, 3: 15, 4: 15}  # bits that each version knows; later ones have 16
NETWORK_SINCE, _SCOPE_SINCE = 4, 6
_SYSTEM = (
    "/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/proc/self", "/proc/cpuinfo", "/proc/meminfo",
    "/proc/stat", "/sys/devices/system", "/sys/fs/cgroup",
)  # fmt: skip
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scope", ctypes.c_uint64),
    )


class _Rule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("parent", ctypes.c_int32))


def confine(readable: Iterable[str]) -> int:
    """The version of Landlock that is in force now; 0 where the kernel has none. Needs no_new_privs."""
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    if version < 1:
        return 0
    ruleset = _Ruleset(
        files=(1 << _ALL_ACCESS.get(version, 16)) - 1,
        network=3 if version >= NETWORK_SINCE else 0,
        scope=3 if version >= _SCOPE_SINCE else 0,
    )
    handle = libc.syscall(_CREATE, ctypes.byref(ruleset), ctypes.sizeof(ruleset), 0)
    if handle < 0:
        return 0
    for path in (*_SYSTEM, *_code(), *readable):
        _allow(libc, handle, path, _EXECUTE | _READ_FILE | _READ_FOLDER)
    for path in _DEVICES:
        _allow(libc, handle, path, _READ_FILE | _WRITE_FILE)
    in_force = libc.syscall(_RESTRICT, handle, 0) == 0
    os.close(handle)
    return version if in_force else 0


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, access: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # it is not there, so it need not be readable
    if not os.path.isdir(path):
        access &= ~_READ_FOLDER
    rule = _Rule(access=access, parent=parent)
    libc.syscall(_ADD, ruleset, _BENEATH, ctypes.byref(rule), 0)
    os.close(parent)


def _code() -> Iterator[str]:
    """Where Python and its packages are. Of other folders only what is code: data may lie beside it."""
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix}
    yield from prefixes
    for entry in sys.path:
        if not entry or any(Path(entry).is_relative_to(prefix) for prefix in prefixes):
            continue
        if os.path.isfile(entry):
            yield entry
            continue
        for child in os.scandir(entry) if os.path.isdir(entry) else ():
            if child.name.endswith((".py", ".so", ".dist-info")) or _is_package(child.path):
                yield child.path


def _is_package(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, "__init__.py"))
