"""Where webhooks may go: never inside, however it is written."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.webhooks.addresses import is_open
from service.webhooks.destination import Destination, Policy, Refused

STRICT = Policy()
LOCAL = Policy(http=True, networks=[ipaddress.ip_network("127.0.0.0/8")])

INSIDE = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254",
    "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.1.1",
    "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::",
    "2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1",
    "ff02::1",
]  # fmt: skip
OUTSIDE = ["1.1.1.1", "8.8.8.8", "100.128.0.1", "172.32.0.1", "2606:4700::1111", "2a00:1450::1"]


@pytest.mark.parametrize("text", INSIDE)
def test_inside_addresses_are_closed(text: str) -> None:
    assert not is_open(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", OUTSIDE)
def test_addresses_of_the_open_internet_are_open(text: str) -> None:
    assert is_open(ipaddress.ip_address(text))


def test_the_operator_opens_what_is_named_and_no_more() -> None:
    allowed = [ipaddress.ip_network("10.1.0.0/16")]
    assert is_open(ipaddress.ip_address("10.1.2.3"), allowed)
    assert not is_open(ipaddress.ip_address("10.2.0.1"), allowed)
    assert not is_open(ipaddress.ip_address("::ffff:10.1.2.3"), allowed)


@given(st.ip_addresses(v=4))
def test_no_disguise_of_an_ipv4_address_is_open(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    disguises = [
        number,
        (0xFFFF << 32) | number,
        (0x64FF9B << 96) | number,
        (0x2002 << 112) | (number << 80),
        (0x20010000 << 96) | number,
    ]
    assert not any(is_open(ipaddress.IPv6Address(disguise)) for disguise in disguises)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://example.com/", "must begin with https"),
        ("HTTP://example.com/", "UPWEIGHT_WEBHOOK_HTTP"),
        ("ftp://example.com/", "must begin with https"),
        ("file:///etc/passwd", "must begin with https"),
        ("gopher://example.com/", "must begin with https"),
        ("example.com/hook", "must begin with https"),
        ("//example.com/hook", "must begin with https"),
        ("https://", "no host"),
        ("https:///path", "no host"),
        ("https://user:secret@example.com/", "user or password"),
        ("https://user@example.com/", "user or password"),
        ("https://@example.com/", "user or password"),
        ("https://example.com@127.0.0.1/", "user or password"),
        ("https://127.0.0.1/", "127.0.0.1, which is private"),
        ("https://[::1]/", "::1, which is private"),
        ("https://[::ffff:127.0.0.1]/", "private"),
        ("https://[fe80::1%25eth0]/", "'%'"),
        ("https://169.254.169.254/latest/meta-data", "UPWEIGHT_WEBHOOK_NETWORKS"),
        ("https://localhost/", "127.0.0.1"),
        ("https://LOCALHOST./", "127.0.0.1"),
        ("https://a.localhost/", "127.0.0.1"),
        ("https://example.com:0/", "port 0"),
        ("https://example.com:70000/", "is no URL"),
        ("https://example.com:x/", "is no URL"),
        ("https://exa mple.com/", "spaces"),
        ("https://example.com/a b", "spaces"),
        ("https://example.com/\r\nX-Evil: 1", "control characters"),
        ("https://example.com\\@127.0.0.1/", "backslashes"),
        ("https://example.com/\t", "control characters"),
        ("https://example.com/#part", "fragment"),
        ("https://example.com/#", "fragment"),
        ("https://example.com/ü", "percent-encode"),
        ("https://[::1/", "is no URL"),
        ("https://exa_mple..com/", "no name of the internet"),
        ("https://" + "a" * 64 + ".com/", "no name of the internet"),
        ("https://-x.com/", "no name of the internet"),
        ("https://x%2ecom/", "'%'"),
    ],
)  # fmt: skip
def test_a_url_that_may_lead_inside_or_astray_is_refused_in_words(url: str, words: str) -> None:
    with pytest.raises(Refused, match=words):
        Destination.of(url, STRICT)


def test_a_good_url_is_taken_apart() -> None:
    made = Destination.of("https://Hooks.Example.com:8443/a%20b?c=d", STRICT)
    assert (made.host, made.port, made.target) == ("hooks.example.com", 8443, "/a%20b?c=d")
    assert made.authority == "hooks.example.com:8443"
    assert made.at(ipaddress.ip_address("8.8.8.8")) == "https://8.8.8.8:8443/a%20b?c=d"
    assert made.at(ipaddress.ip_address("2606::1")) == "https://[2606::1]:8443/a%20b?c=d"
    assert Destination.of("https://bücher.example", STRICT).authority == "xn--bcher-kva.example"
    assert Destination.of("https://[2606:4700::1111]", STRICT).authority == "[2606:4700::1111]"


def test_the_operator_may_allow_http_and_networks() -> None:
    assert Destination.of("http://127.0.0.1:99/x", LOCAL).port == 99
    assert Destination.of("http://localhost/x", LOCAL).host == "localhost"
    with pytest.raises(Refused):
        Destination.of("http://10.0.0.1/", LOCAL)


@given(
    st.text(max_size=60),
    st.sampled_from(["", "https://", "https://[", "http://a:b@", "https://1."]),
)
def test_any_text_is_a_destination_or_refused(text: str, start: str) -> None:
    try:
        made = Destination.of(start + text, LOCAL)
    except Refused:
        return
    line = f"{made.authority}{made.target}"
    assert line.isascii()
    assert line.isprintable()
    assert " " not in line
