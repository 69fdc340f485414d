"""Archives of the zoo's models, each exported once."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.programs.zoo import CASES, export
from workers.programs.fork_server import ForkServer


@pytest.fixture(scope="session")
def archive_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The archive of a case, by its name."""
    folder = tmp_path_factory.mktemp("archives")
    return cache(lambda name: export(CASES[name], folder / f"{name}.pt2"))


@pytest.fixture
def mlp(archive_of: Callable[[str], Path]) -> Path:
    """The smallest archive."""
    return archive_of("mlp")


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """As a worker has it: forks the children that check models."""
    server = ForkServer("workers.checks.model:prepare")
    server.start()
    yield server
    server.stop()
