"""Runs the SDK's tests with the newest Python of this machine, where one is newer than the one that runs this.

In an environment of its own, `.venv-newest`, at the lock's versions and without torch, some gigabytes: the tests that
need it, or a service with workers, are left to `make test PYTHON=…`. Says so where there is no such Python.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENVIRONMENT = ROOT / ".venv-newest"
MINORS = range(20, sys.version_info.minor, -1)
# It is there, can make environments, and is what its name says.
SUITS = "import ensurepip, ssl, sys, venv; print(sys.version_info.minor)"
NEEDS = re.compile(r"\b(torch|stack|keyed_stack|sklearn|transformers)\b")
TOOLS = (
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "hypothesis",
    "moto[server]",
    "packaging",
    "matplotlib",
    "pandas",
)


def main() -> int:
    """The exit status of the tests; 0 where there is nothing to run them with."""
    python = newest()
    if python is None:
        print(
            f"No Python newer than 3.{sys.version_info.minor} on this machine: nothing to test the SDK with."
        )
        return 0
    print(f"The SDK's tests with {python}")
    # uv, as it takes seconds for what takes pip a minute; its cache is used again the next time.
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([python, "-m", "venv", "--clear", ENVIRONMENT], check=True)
    own = ENVIRONMENT / "bin" / "python"
    install = [uv, "pip", "install", "--quiet", "--python", own, "-c", ROOT / "requirements.lock"]
    subprocess.run([*install, "hatchling", "editables", *TOOLS], check=True)
    folder = f"{ROOT}[cli,arrow,pandas,plot,service,embedded]"
    subprocess.run([*install, "--no-build-isolation", "-e", folder], check=True)
    tests = [
        each
        for each in sorted((ROOT / "tests" / "upweight").glob("test_*.py"))
        if not NEEDS.search(each.read_text())
    ]
    command = [own, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", *tests]
    return subprocess.run(command, cwd=ROOT).returncode


def newest() -> str | None:
    """The newest of those on the path and of pyenv's."""
    for minor in MINORS:
        for candidate in candidates(minor):
            asked = subprocess.run([candidate, "-c", SUITS], capture_output=True, text=True)
            if asked.returncode == 0 and asked.stdout.strip() == str(minor):
                return candidate
    return None


def candidates(minor: int) -> Iterator[str]:
    """Places to look at."""
    found = shutil.which(f"python3.{minor}")
    if found:
        yield found
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from map(str, sorted(pyenv.glob(f"versions/3.{minor}.*/bin/python"), reverse=True))


if __name__ == "__main__":
    sys.exit(main())
