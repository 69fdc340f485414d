"""The check's report is kept: for the same bytes, the same questions and the same code, in one namespace."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import redis
import torch
from torch import nn

from service.local.background import Running
from service.storage.redis import connect
from upweight import Client, export_program
from upweight.errors import Rejected
from workers.checks import kept_reports
from workers.checks.kept_reports import KeptReports
from workers.programs.errors import CheckTimedOut, GraphInvalid

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
SAID = {"blob": "sha256:1", "loss": {"name": "cross_entropy"}}


class Check:
    """Counts how often it is made."""

    def __init__(self, ends: Exception | None = None) -> None:
        self.ends, self.times = ends, 0

    def __call__(self) -> dict[str, Any]:
        self.times += 1
        if self.ends is not None:
            raise self.ends
        return {"parameter_count": 7}


@pytest.fixture
def reports(redis_url: str) -> KeptReports:
    return KeptReports(connect(redis_url))


def test_same_check_is_made_once(reports: KeptReports) -> None:
    check = Check()
    found = [reports.report("alice", SAID, check) for _ in range(3)]
    assert found == [{"parameter_count": 7}] * 3
    assert check.times == 1


def test_other_bytes_questions_and_namespaces_are_checked_anew(reports: KeptReports) -> None:
    check = Check()
    reports.report("alice", SAID, check)
    reports.report("alice", {**SAID, "blob": "sha256:2"}, check)
    reports.report("alice", {**SAID, "loss": {"name": "mse"}}, check)
    reports.report("bob", SAID, check)
    assert check.times == 4


def test_other_versions_are_checked_anew(
    reports: KeptReports, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = Check()
    reports.report("alice", SAID, check)
    versions = kept_reports._versions()
    for name in versions:
        monkeypatch.setattr(
            kept_reports, "_versions", lambda name=name: {**versions, name: "other"}
        )
        reports.report("alice", SAID, check)
    assert check.times == 1 + len(versions)


def test_refusal_is_kept_and_what_time_or_memory_ended_is_not(reports: KeptReports) -> None:
    refused = Check(GraphInvalid("no such node", field="/program/blob"))
    late = Check(CheckTimedOut("longer than 1 s"))
    for _ in range(2):
        with pytest.raises(GraphInvalid, match="no such node"):
            reports.report("alice", SAID, refused)
        with pytest.raises(CheckTimedOut):
            reports.report("alice", {**SAID, "blob": "sha256:2"}, late)
    assert (refused.times, late.times) == (1, 2)


@pytest.fixture
def kept(stack: Running) -> Iterator[redis.Redis]:
    """The Redis of the running service, where every kept report claims another count of parameters after `forge`."""
    with redis.Redis.from_url(stack.redis_url) as client:
        yield client
        for key in client.scan_iter("upweight:checked:*"):
            client.delete(key)


def forge(client: redis.Redis, count: int) -> None:
    """All kept reports claim that many parameters: so it shows where they are used."""
    for key in client.scan_iter("upweight:checked:*"):
        outcome = json.loads(zlib.decompress(client.get(key)))
        if "report" in outcome:
            outcome["report"]["parameter_count"] = count
        client.set(key, zlib.compress(json.dumps(outcome).encode()))


def test_same_bytes_registered_again_are_answered_from_the_report(
    stack: Running, kept: redis.Redis
) -> None:
    content = export_program(nn.Linear(3, 2), torch.randn(2, 3))
    with Client(stack.url) as client:
        first, second = (
            client.models.register(f"kept-{uuid4().hex}", content, loss="mse") for _ in range(2)
        )
        assert (first.parameter_count, second.parameter_count) == (8, 8)
        assert first.selected == second.selected
        assert first.outputs == second.outputs
        forge(kept, 12345)
        again = client.models.register(f"kept-{uuid4().hex}", content, loss="mse")
        other = client.models.register(f"kept-{uuid4().hex}", content, loss="cross_entropy")
        part = client.models.register(
            f"kept-{uuid4().hex}", content, loss="mse", parameters="weight"
        )
    assert again.parameter_count == 12345
    assert (other.parameter_count, part.parameter_count) == (8, 6)


def test_model_refused_is_refused_again_in_the_same_words(
    stack: Running, kept: redis.Redis
) -> None:
    content = export_program(nn.Linear(3, 2), torch.randn(2, 3))
    words = []
    with Client(stack.url) as client:
        for _ in range(2):
            with pytest.raises(Rejected) as caught:
                client.models.register(
                    f"kept-{uuid4().hex}", content, loss="mse", parameters="nothing.*"
                )
            words.append(str(caught.value))
    assert words[0] == words[1]
    assert "nothing.*" in words[0]
