"""Keys, from the command to the answer."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable

from service.local.background import Running


def test_with_a_key_set_every_request_needs_one(
    keyed_stack: Running, make_key: Callable[[str, str], str]
) -> None:
    assert status(keyed_stack, None) == 401
    assert status(keyed_stack, make_key("vision", "read")) == 200
    assert status(keyed_stack, "uwk_000000000000_" + 48 * "0") == 401


def test_a_key_made_and_revoked_by_the_command_works_from_and_until_that_moment(
    keyed_stack: Running,
) -> None:
    key = keys(keyed_stack, "create", "--name", "mine", "--role", "read").strip()
    assert status(keyed_stack, key) == 200
    keys(keyed_stack, "revoke", key.split("_")[1])
    assert status(keyed_stack, key) == 401


def test_whether_it_lives_can_be_asked_without_a_key(keyed_stack: Running) -> None:
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert status(keyed_stack, None, path) == 200, path


def keys(service: Running, *arguments: str) -> str:
    command = [sys.executable, "-m", "upweight.cli", "keys", *arguments]
    return subprocess.run(
        [*command, "--data-dir", str(service.data)], check=True, capture_output=True, text=True
    ).stdout


def status(service: Running, key: str | None, path: str = "/v1/jobs") -> int:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    request = urllib.request.Request(service.url + path, headers=headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code
