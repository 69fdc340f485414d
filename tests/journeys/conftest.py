"""The whole service with one worker, and small models that are registered once for all journeys."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from service.local.background import Running
from tests.journeys import subjects
from tests.journeys.subjects import Subject
from tests.patience import PATIENCE
from upweight import Client


@pytest.fixture(scope="session")
def online(stack: Running) -> Iterator[Client]:
    """The SDK's client of the running service."""
    with Client(stack.url) as client:
        yield client


@pytest.fixture(scope="session")
def http(stack: Running) -> Iterator[httpx2.Client]:
    """Plain HTTP to the same service."""
    with httpx2.Client(base_url=stack.url, timeout=PATIENCE, trust_env=False) as client:
        yield client


@pytest.fixture(scope="session")
def regression(online: Client) -> Subject:
    """The stored problem of least squares."""
    subject = subjects.regression()
    subject.register(online)
    return subject


@pytest.fixture(scope="session")
def iris(online: Client) -> Subject:
    """The stored problem of softmax regression."""
    subject = subjects.iris()
    subject.register(online)
    return subject


@pytest.fixture(scope="session")
def words(online: Client) -> Subject:
    """A network with an embedding."""
    subject = subjects.words()
    subject.register(online)
    return subject
