"""requirements.lock holds what pyproject.toml asks for."""

import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from upweight.extras import EXTRAS
from upweight.results.handover import Tool

ROOT = Path(__file__).parent.parent
# Of these extras people hand results over to: no command of ours installs them.
HANDED_OVER = {"argilla", "cleanlab", "datasets", "fiftyone", "label-studio", "wandb"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = {
    canonicalize_name(requirement.name): requirement
    for line in (ROOT / "requirements.lock").read_text().splitlines()
    if line and not line.startswith("#")
    for requirement in [Requirement(line)]
}


def asked() -> list[Requirement]:
    """Everything in the project file but references to ourselves."""
    project, groups = PROJECT["project"], PROJECT["dependency-groups"]
    lines = [*project["dependencies"], *PROJECT["build-system"]["requires"]]
    extras = project["optional-dependencies"]
    ours = [extra for name, extra in extras.items() if name not in HANDED_OVER]
    for group in [*ours, *groups.values()]:
        lines += group
    found = [Requirement(line) for line in lines]
    return [requirement for requirement in found if requirement.name != project["name"]]


def test_every_tool_that_results_are_handed_over_to_is_an_extra() -> None:
    assert set(get_args(Tool)) == HANDED_OVER | {"mlflow"}
    extras = PROJECT["project"]["optional-dependencies"]
    assert set(get_args(Tool)) <= set(extras)
    assert set(EXTRAS.values()) <= set(extras)


@pytest.mark.parametrize("requirement", asked(), ids=str)
def test_what_the_project_asks_for_is_pinned_to_a_version_that_it_allows(
    requirement: Requirement,
) -> None:
    pinned = LOCK[canonicalize_name(requirement.name)]
    version = str(pinned.specifier).removeprefix("==")
    assert requirement.specifier.contains(version, prereleases=True)


def test_every_line_pins_one_exact_public_version() -> None:
    for requirement in LOCK.values():
        assert re.fullmatch(r"==[\w.!]+", str(requirement.specifier)), str(requirement)


def test_torch_is_the_version_whose_archives_we_read() -> None:
    assert str(LOCK["torch"].specifier) == "==2.13.0"


def hashed(path: str) -> dict[str, tuple[Requirement, int]]:
    """The requirements of a hashed lock, and how many hashes each has."""
    text = (ROOT / path).read_text()
    found = {}
    for each in re.split(r"^(?=[A-Za-z])", text, flags=re.MULTILINE)[1:]:
        requirement = Requirement(each.split("\\")[0].strip())
        hashes = re.findall(r"--hash=sha256:[0-9a-f]{64}", each)
        found[canonicalize_name(requirement.name)] = (requirement, len(hashes))
    return found


IMAGES = ("docker/front.txt", "docker/worker-cpu.txt", "docker/worker-cuda.txt")


@pytest.mark.parametrize("path", ["requirements.hashes.txt", *IMAGES])
def test_a_hashed_lock_has_the_versions_of_the_lock_and_a_hash_for_each(path: str) -> None:
    found = hashed(path)
    # Those of torch's builds are left out of the lock, and pip leaves itself and setuptools out.
    of_a_build = re.compile(r"cuda-|nvidia-|triton|setuptools")
    for name, (requirement, hashes) in found.items():
        assert hashes >= 1, name
        if not of_a_build.match(name):
            assert requirement.specifier == LOCK[name].specifier, f"{name}: make lock-hashes"
    if path == "requirements.hashes.txt":
        assert set(found) == set(LOCK), "make lock-hashes"


def test_the_front_ends_image_has_no_torch_and_no_image_has_tests() -> None:
    assert "torch" not in hashed("docker/front.txt")
    assert "torch" in hashed("docker/worker-cuda.txt")
    for path in IMAGES:
        assert not {"pytest", "mypy", "moto"} & set(hashed(path))
