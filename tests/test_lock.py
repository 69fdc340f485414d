"""requirements.lock holds what pyproject.toml asks for."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
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
    for group in [*project["optional-dependencies"].values(), *groups.values()]:
        lines += group
    found = [Requirement(line) for line in lines]
    return [requirement for requirement in found if requirement.name != project["name"]]


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
