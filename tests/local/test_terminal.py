"""What a supervisor tells people, and what it tells programs."""

from __future__ import annotations

import json

import pytest

from service.local.terminal import in_words, say_in_words, teller

REQUEST = {"time": "2026", "level": "info", "event": "request", "route": "/readyz", "status": 503}


def test_a_terminal_is_told_what_the_supervisor_says_and_what_the_others_warn_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say = teller("text")
    say("front", json.dumps(REQUEST))
    say("redis", "1:M # WARNING Memory overcommit must be enabled! Without it, …")
    say("local", "Upweight is ready at http://127.0.0.1:8765")
    say("worker-1", json.dumps({"level": "error", "event": "task-failed", "job": "job_1"}))
    assert capsys.readouterr().err.splitlines() == [
        "Upweight is ready at http://127.0.0.1:8765",
        "worker-1: error: task-failed (job job_1)",
    ]


def test_programs_are_told_every_line_as_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    teller("json")("front", json.dumps(REQUEST))
    assert json.loads(capsys.readouterr().err.partition("|")[2]) == REQUEST


def test_what_is_no_terminal_is_told_as_programs_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert teller("auto") is not say_in_words


@pytest.mark.parametrize("line", ["Traceback (most recent call last):", "7", "[1]"])
def test_what_is_no_line_of_the_log_is_told_as_it_is(line: str) -> None:
    assert in_words(line) == line


def test_a_traceback_follows_the_line_that_it_belongs_to() -> None:
    line = json.dumps({"level": "error", "message": "it broke", "traceback": "a\nb"})
    assert in_words(line) == "error: it broke\na\nb"
