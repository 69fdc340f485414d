"""Mistakes: one line that says what is wrong and the way out, and a code that means something."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.local.background import Running
from tests.cli.conftest import Upweight
from upweight.cli.exits import Exit

NOWHERE = ("--url", "http://127.0.0.1:1")
JOB = ("--model", "m", "--train", "a", "--test", "b")


def one_line(text: str) -> str:
    assert text.startswith("upweight: ")
    assert text.count("\n") == 1
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["job", "list"], "Did you mean 'jobs'?"),
        (["jobs", "lst"], "Did you mean 'list'? See `upweight jobs --help`"),
        (["jobs", "list", "--lmit", "3"], "--limit"),
        (["jobs", "list", "--limit", "x"], "--limit"),
        (["jobs", "list", "--limit", "-1"], "greater than or equal to 0"),
        (["jobs", "list", "--label", "x"], "KEY=VALUE"),
        (["jobs", "list", "--url", "localhost"], "http://"),
        (["jobs", "show"], "see `upweight jobs show --help`"),
        (["jobs", "submit"], "/model: is missing"),
        (["jobs", "submit", *JOB, "--kind", "influence"], "did you mean 'influences'?"),
        (["jobs", "submit", *JOB, "--method", "gc"], "'gc' is no inversion method"),
        (["jobs", "submit", *JOB, "--set", "rtol=1"], "'rtol' is not a parameter of 'direct'"),
        (["jobs", "submit", *JOB, "--method", "cg", "--set", "rtol=2"], "must be at most 1; it is 2"),
        (["jobs", "submit", *JOB, "--lambda", "-1"], "λ must be at least 0; it is -1"),
        (["jobs", "submit", *JOB, "--test-rows", "a:b"], "'a:b' is not a row"),
        (["jobs", "submit", *JOB, "--keep", "matrxi"], "did you mean 'matrix'?"),
        (["jobs", "submit", *JOB, "--priority", "urgent"], "'high', 'default' or 'low'"),
        (["jobs", "submit", "nofile.json"], "nofile.json: No such file"),
        (["jobs", "submit", '{"modle": "m"}'], "did you mean 'model'?"),
        (["jobs", "submit", "{"], "no JSON"),
        (["jobs", "submit", "[]"], "a job is a JSON object"),
        (["models", "register", "m", "no.pt2", "--loss", "mse"], "there is no file 'no.pt2'"),
        (["models", "register", "m", "--loss", "mse"], "give one of"),
        (["datasets", "register", "d"], "give files, or --uri"),
        (["datasets", "register", "d", "no.npz"], "there is no file 'no.npz'"),
        (["datasets", "register", "d", "--uri", "s3://b/p"], "give format="),
        (["jobs", "submit", *JOB, "--keep", ""], "ask for 'matrix', 'top', 'mean' or 'factors'\n"),
        (["results", "top", "job_x", "--sign", "bad"], "neither 'helpful' nor 'harmful'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_anything_is_sent(
    upweight: Upweight, arguments: list[str], words: str
) -> None:
    ended = upweight(*arguments)
    assert words in one_line(ended.err)
    assert (ended.code, ended.out) == (Exit.USAGE, "")


@pytest.mark.parametrize("arguments", [[], ["datasets"]], ids=["alone", "a noun"])
def test_a_command_without_a_verb_shows_what_there_is(
    upweight: Upweight, arguments: list[str]
) -> None:
    ended = upweight(*arguments)
    assert (ended.code, ended.out) == (Exit.USAGE, "")
    lines = ended.err.splitlines()
    assert lines[0].startswith("Usage: upweight")
    assert any(line.startswith("  doctor " if not arguments else "  rows ") for line in lines)


@pytest.mark.parametrize(
    "arguments",
    [
        ["jobs", "show", "job_01JD0000000000000000000000"],
        ["models", "show", "nope"],
        ["datasets", "delete", "nope"],
        ["results", "save", "job_01JD0000000000000000000000", "r.npy"],
        ["jobs", "submit", *JOB],
    ],
    ids=" ".join,
)
def test_what_is_not_there_ends_with_3(online: Upweight, arguments: list[str]) -> None:
    ended = online(*arguments)
    assert "here" in one_line(ended.err)
    assert ended.code == Exit.NOT_FOUND


def test_no_service_ends_with_5_and_names_the_way_out(upweight: Upweight) -> None:
    ended = upweight("models", "list", *NOWHERE)
    assert ended.code == Exit.UNREACHABLE
    assert "`upweight serve`" in one_line(ended.err)


def test_a_key_that_is_missing_wrong_or_too_weak_ends_with_4(
    upweight: Upweight, keyed_stack: Running, make_key: Callable[..., str], tmp_path: Path
) -> None:
    url = ("--url", keyed_stack.url)
    assert upweight("jobs", "list", *url).code == Exit.REFUSED
    wrong = upweight("jobs", "list", *url, "--api-key", "uwk_wrong")
    assert wrong.code == Exit.REFUSED
    assert "uwk_wrong" not in wrong.err
    reader = make_key("default", "read")
    assert upweight("jobs", "list", *url, "--api-key", reader).code == Exit.OK
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    refused = upweight(
        "datasets", "register", "d", str(tmp_path / "x.npy"), *url, "--api-key", reader
    )
    assert refused.code == Exit.REFUSED
    assert "role 'write'" in one_line(refused.err)


def test_with_json_a_mistake_is_a_problem_document(upweight: Upweight) -> None:
    ended = upweight("jobs", "submit", *JOB, "--priority", "urgent", "--json")
    problem: Any = json.loads(ended.err)
    assert (ended.code, problem["type"]) == (Exit.USAGE, "invalid-request")
    assert problem["errors"][0]["pointer"] == "/priority"
    assert json.loads(upweight("jobs", "lst", "--json").err)["type"] == "usage"


def test_what_should_not_happen_is_no_traceback_either(
    upweight: Upweight, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upweight.Client", lambda *a, **k: {}["surprise"])
    ended = upweight("jobs", "list")
    assert ended.code == Exit.FAILED
    assert "please report it: KeyError('surprise')" in one_line(ended.err)


def test_what_the_service_is_not_asked_as_it_should_be(
    online: Upweight, job: str, files: Path
) -> None:
    for arguments, words in (
        (["blobs", "show", "abc"], "'abc' is no digest: these are 'sha256:'"),
        (
            ["results", "report", job],
            "computed influences; there are reports of quality and retrain",
        ),
        (
            ["datasets", "register", "d", str(files / "x.npy"), "--preview", "image"],
            "'image' is no JSON",
        ),
        (["jobs", "submit", *JOB, "--factors", "nope"], "'nope' is no job's id"),
        (["jobs", "list", "--kind", "influence"], "it is 'influence'"),
    ):
        ended = online(*arguments)
        assert words in one_line(ended.err)
        assert ended.code == Exit.USAGE
    assert (
        "`upweight jobs list` shows all" in online("jobs", "list", "--search", "no such word").err
    )


def test_a_full_disk_is_told_with_a_way_out(
    upweight: Upweight, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("upweight.Client", full)
    ended = upweight("jobs", "list")
    assert one_line(ended.err) == (
        "upweight: No space left on device; make room, or write to another disk\n"
    )
    assert ended.code == Exit.FAILED
