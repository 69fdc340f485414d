"""One try: pinned to an address that was judged, without redirects, within its time, believing nobody."""

from __future__ import annotations

import asyncio
import ipaddress
from pathlib import Path

import pytest

from service.webhooks.destination import Policy
from service.webhooks.secrets import new_secret
from service.webhooks.sender import Outcome, Resolver, Sender, resolve
from tests.patience import PATIENCE
from tests.webhooks.receiver import (
    answering,
    breaking_off,
    certificate,
    dripping_headers,
    endless_body,
    receiver,
)
from upweight.webhooks import sign

SECRET = new_secret()
LOOPBACK = Policy(http=True, networks=[ipaddress.ip_network("127.0.0.0/8")])


class Names:
    """A resolver with answers of its own: each question takes the next, as a rebinding name server would."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        return self._answers[min(len(self.asked), len(self._answers)) - 1]


def send(
    url: str, policy: Policy = LOOPBACK, resolver: Resolver = resolve, seconds: float = PATIENCE
) -> Outcome:
    sender = Sender(policy, seconds, resolver)
    return asyncio.run(sender.send(url, "msg_1", b'{"a": 1}', [SECRET]))


def test_what_is_sent_is_signed_and_carries_nothing_of_the_users() -> None:
    with receiver() as server:
        assert send(f"{server.url}?q=1") == Outcome(delivered=True, status=204)
    (got,) = server.received
    assert (got.path, got.body) == ("/hook?q=1", b'{"a": 1}')
    assert got.headers["host"] == f"127.0.0.1:{server.port}"
    expected = sign(SECRET, "msg_1", got.headers["webhook-timestamp"], got.body)
    assert got.headers["webhook-signature"] == expected
    assert set(got.headers) == {
        "host", "accept", "accept-encoding", "connection", "content-length", "content-type", "user-agent",
        "webhook-id", "webhook-timestamp", "webhook-signature",
    }  # fmt: skip


def test_without_leave_nothing_inside_is_called() -> None:
    with receiver() as server:
        outcome = send(server.url, Policy(http=True))
        assert outcome.final
        assert "private" in (outcome.error or "")
        names = Names(["127.0.0.1"])
        outcome = send(f"http://inside.example:{server.port}/", Policy(http=True), names)
        assert outcome.final
        assert "leads to 127.0.0.1" in (outcome.error or "")
    assert server.received == []


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "0177.0.0.1"])
def test_odd_spellings_of_loopback_are_resolved_before_they_are_judged(host: str) -> None:
    """The system's resolver takes them all for 127.0.0.1."""
    with receiver() as server:
        assert not send(f"http://{host}:{server.port}/", Policy(http=True)).delivered
    assert server.received == []


def test_a_name_with_one_address_inside_is_refused_whole() -> None:
    outcome = send("http://both.example/", Policy(http=True), Names(["8.8.8.8", "10.0.0.1"]))
    assert "leads to 10.0.0.1" in (outcome.error or "")
    assert outcome.final


def test_a_name_that_changes_its_address_is_asked_once() -> None:
    """It shows an allowed address when it is judged, and would show the inside when it is called."""
    allowed = Policy(http=True, networks=[ipaddress.ip_network("127.0.0.2/32")])
    with (
        receiver("127.0.0.2") as outside,
        receiver("127.0.0.1", outside.port) as inside,
    ):
        names = Names(["127.0.0.2"], ["127.0.0.1"])
        outcome = send(f"http://rebinding.example:{outside.port}/", allowed, names)
    assert outcome.delivered
    assert names.asked == ["rebinding.example"]
    assert len(outside.received) == 1
    assert outside.received[0].headers["host"] == f"rebinding.example:{outside.port}"
    assert inside.received == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status: int) -> None:
    with receiver() as inside, receiver() as server:
        server.behave = [answering(status, Location=inside.url)]
        outcome = send(server.url)
        assert not outcome.delivered
        assert "redirect" in (outcome.error or "")
    assert inside.received == []


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as proxy, receiver() as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert send(server.url).delivered
    assert proxy.received == []


def test_an_endless_answer_is_not_read() -> None:
    with receiver() as server:
        server.behave = [endless_body]
        assert send(server.url).delivered


def test_a_receiver_that_drips_is_left_when_the_time_is_up() -> None:
    with receiver() as server:
        server.behave = [dripping_headers]
        outcome = send(server.url, seconds=0.5)
    assert outcome == Outcome(error="no answer within 0.5 s")


def test_what_went_wrong_is_said() -> None:
    with receiver() as server:
        server.behave = [
            breaking_off,
            answering(500),
            answering(503, retry_after="7"),
            answering(410),
        ]
        assert "connection failed" in (send(server.url).error or "")
        assert send(server.url).status == 500
        assert send(server.url).retry_after == 7
        assert send(server.url).final
    assert "connection failed" in (send(server.url).error or "")


def test_over_tls_the_certificate_must_be_that_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certificate(tmp_path / "pem", "good.example", "127.0.0.1")
    names = Names(["127.0.0.1"])
    with receiver(tls=pem) as server:
        address = f"https://good.example:{server.port}/"
        assert "certificate" in (send(address, resolver=names).error or "").lower()
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        assert send(address, resolver=names).delivered
        assert send(f"https://127.0.0.1:{server.port}/").delivered
        other = send(f"https://other.example:{server.port}/", resolver=names)
        assert "certificate" in (other.error or "").lower()
    assert len(server.received) == 2
