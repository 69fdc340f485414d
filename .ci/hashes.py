"""Writes the hashed locks: what may be installed is what the index had when the versions were chosen.

`requirements.hashes.txt` is all of requirements.lock, for audits, the bill of materials, and installations that want
hashes; `docker/*.txt` are what the images hold. Hashes are the package index's. `make` itself installs without: the CPU
build of torch that it may be given has another hash than the index's, and is not on it.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements.lock"
PYTHON = "3.11.13"  # of the images
OF_TORCH = re.compile(r"^(torch|triton|nvidia-|cuda-)")
HEADER = "# Made by `make lock-hashes`. The hashes are those of the package index.\n"


def main() -> None:
    """Writes all of them."""
    front = resolved(["service", "tracing"])
    cuda = resolved(["workers", "tracing"])
    write("requirements.hashes.txt", compiled(LOCK, "--no-deps"))
    write("docker/front.txt", front)
    write("docker/worker-cuda.txt", cuda)
    write("docker/worker-cpu.txt", [each for each in cuda if not OF_TORCH.match(each)])
    version = next(line for line in LOCK.read_text().splitlines() if line.startswith("torch=="))
    write("docker/torch.txt", [f"{version}\n"])


def resolved(extras: list[str]) -> list[str]:
    """What an installation with these extras holds, at the lock's versions, with what builds our own wheel."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "requirements.in"
        wanted.write_text("\n".join([f"upweight[{','.join(extras)}] @ {ROOT.as_uri()}", *build]))
        found = compiled(wanted, "--constraint", str(LOCK))
    return [each for each in found if not each.startswith("upweight")]


def compiled(requirements: Path, *options: str) -> list[str]:
    """Each requirement with the hashes of all its files, as uv finds them."""
    command = [
        str(Path(sys.executable).with_name("uv")), "pip", "compile", str(requirements), *options,
        "--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url", "--quiet",
        "--python-version", PYTHON, "--python-platform", "x86_64-manylinux_2_28",
        "--index-strategy", "first-index", "--no-config",
    ]  # fmt: skip
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    return [each for each in re.split(r"^(?=\S)", ended.stdout, flags=re.MULTILINE) if each.strip()]


def write(path: str, requirements: list[str]) -> None:
    """One file."""
    (ROOT / path).write_text(HEADER + "".join(requirements))


if __name__ == "__main__":
    main()
