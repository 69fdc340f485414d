"""The virtual environment of each library: ours is the one that runs this, the peers' are made."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.places import ENVIRONMENTS, ignored

# Installed before the rest, so that no peer's requirement picks another one.
TORCH = "torch==2.13.0"
REQUIREMENTS = Path(__file__).with_name("requirements")


def python_of(library: str) -> Path:
    """The interpreter that has this library; makes its environment if it is missing or outdated."""
    if library == "upweight":
        return Path(sys.executable)
    pinned = REQUIREMENTS / f"{library}.txt"
    folder = ignored(ENVIRONMENTS) / library
    python = folder / "bin" / "python"
    stamp = folder / ".installed"
    wanted = hashlib.sha256(f"{TORCH}\n{pinned.read_text()}".encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    print(f"making the environment of {library} (once)")
    _run(sys.executable, "-m", "venv", "--clear", str(folder))
    _install(python, TORCH)
    _install(python, TORCH, "-r", str(pinned))
    stamp.write_text(wanted)
    return python


def _install(python: Path, *what: str) -> None:
    _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
