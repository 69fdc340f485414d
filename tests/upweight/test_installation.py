"""The wheel in an environment of its own, with nothing beside it but what it depends on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from collections.abc import Callable
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from torch import nn

from service.local.background import Running
from upweight import __version__
from upweight.export import export_program

ROOT = Path(__file__).parent.parent.parent
FOREIGN = ("torch", "fastapi", "redis", "rq", "zarr", "obstore", "safetensors", "uvicorn", "pandas")

PATIENCE = 300  # seconds for a process on a machine full of other work; alone each takes a few
pytestmark = pytest.mark.timeout(2 * PATIENCE)

Python = Callable[..., "subprocess.CompletedProcess[str]"]


def needed_by(name: str, extra: str = "") -> dict[str, Distribution]:
    """What a distribution brings along, and what that brings along."""
    found: dict[str, Distribution] = {}
    pending = [(name, extra)]
    while pending:
        name, extra = pending.pop()
        for line in distribution(name).requires or ():
            requirement = Requirement(line)
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
            if wanted and requirement.name not in found:
                found[requirement.name] = distribution(requirement.name)
                pending += [(requirement.name, own) for own in ("", *requirement.extras)]
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE)
    (built,) = folder.glob("upweight-*.whl")
    return built


def environment(folder: Path, wheel: Path, extra: str = "") -> Python:
    """A fresh environment with the wheel and its dependencies, linked from here; runs its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for each in needed_by("upweight", extra).values():
        for top in {Path(str(file)).parts[0] for file in each.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(each.locate_file(top))
    # uv, which takes a fifth of a second for what takes pip some.
    install = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--offline"]
    install += ["--python", str(folder / "bin" / "python"), "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=PATIENCE)

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        clean = {
            name: value
            for name, value in os.environ.items()
            if not re.match("UPWEIGHT_|PYTHON", name)
        }
        return subprocess.run(
            [folder / "bin" / "python", "-I", *arguments], env=clean | variables, cwd=folder,
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def sdk(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Python:
    return environment(tmp_path_factory.mktemp("sdk"), wheel)


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Python:
    return environment(tmp_path_factory.mktemp("command"), wheel, "cli")


ABSENT = f"""
from importlib.util import find_spec
there = [name for name in {FOREIGN!r} if find_spec(name)]
assert not there, there
"""

JOURNEY = """
import sys
import numpy as np
from upweight import Client, MissingPackage
x = np.random.default_rng(0).random((30, 4), dtype=np.float32)
with Client(sys.argv[1]) as client:
    model = client.models.register("installed-net", sys.argv[2], loss="cross_entropy")
    rows = client.datasets.register("installed-rows", x=x, y=(x[:, 0] > 0.5).astype(int))
    result = client.compute_influences(model, rows, rows, hessian_regularization=1.0)
    assert result.influences[3:5, ::10].shape == (2, 3)
    assert len(result.save("r.csv").read_text().splitlines()) == 901
    try:
        result.to_pandas()
    except MissingPackage as error:
        print(error)
"""


def test_the_sdk_alone_does_the_whole_way(sdk: Python, stack: Running, tmp_path: Path) -> None:
    torch.manual_seed(0)
    program = tmp_path / "net.pt2"
    program.write_bytes(export_program(nn.Linear(4, 2), torch.zeros(2, 4)))
    done = sdk("-c", ABSENT + JOURNEY, stack.url, str(program))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "to_pandas() needs pandas: pip install 'upweight[pandas]'\n"


def test_the_sdk_alone_says_where_the_command_comes_from(sdk: Python) -> None:
    done = sdk("-m", "upweight.cli", "jobs", "list")
    assert done.returncode == 1
    assert "pip install 'upweight[cli]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_command_for_clients_needs_nothing_of_the_service(
    command: Python, stack: Running
) -> None:
    assert command("-c", ABSENT).returncode == 0
    assert command("-m", "upweight.cli", "--version").stdout == f"upweight {__version__}\n"
    listed = command("-m", "upweight.cli", "jobs", "list", "--limit", "1", UPWEIGHT_URL=stack.url)
    assert listed.returncode == 0, listed.stderr
    looked = command("-m", "upweight.cli", "doctor", "--url", stack.url)
    assert looked.returncode == 0, looked.stdout
    for noun in ("serve", "keys list"):
        refused = command("-m", "upweight.cli", *noun.split())
        assert refused.returncode == 1
        assert "pip install 'upweight[" in refused.stderr
        assert refused.stderr.count("\n") == 1
