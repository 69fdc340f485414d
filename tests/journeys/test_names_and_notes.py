"""Jobs are named and noted, at submission and later, and found by it; datasets are shown in another way."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import httpx2
import numpy as np
import pytest

from service.local.background import Running
from tests.journeys.subjects import Subject
from upweight import Client, errors
from upweight.schema import JobRecord


@pytest.fixture
def named(online: Client, iris: Subject, fresh_name: str) -> JobRecord:
    """A job with a name, a note and a label."""
    result = online.compute_influences(
        *iris.names, hessian_regularization=iris.damping, name=f"base {fresh_name}", note="Before\nafter.",
        labels={"run": fresh_name},
    )  # fmt: skip
    return online.jobs.get(result.id)


def test_a_job_has_the_name_and_note_it_was_given(online: Client, named: JobRecord) -> None:
    assert named.note == "Before\nafter."
    changed = online.jobs.change(named.id, name="another")
    assert (changed.name, changed.note) == ("another", "Before\nafter.")
    assert (changed.state, changed.result) == (named.state, named.result)
    assert online.jobs.change(named.id, note="").note is None
    assert online.jobs.get(named.id).name == "another"


def test_jobs_are_found_by_a_part_of_what_they_are_called(
    online: Client, named: JobRecord, fresh_name: str
) -> None:
    for part in (fresh_name, fresh_name.upper(), named.id[-12:], f"run={fresh_name}"):
        assert [job.id for job in online.jobs.list(search=part)] == [named.id]
    assert list(online.jobs.list(search=f"no {fresh_name}")) == []
    found = online.jobs.list(search=fresh_name, kind="influences")
    assert [job.id for job in found] == [named.id]
    assert list(online.jobs.list(search=fresh_name, kind="factors")) == []
    with pytest.raises(errors.InvalidRequest, match="must be one of influences, factors"):
        list(online.jobs.list(kind="influence"))


def test_a_search_goes_on_over_the_pages(
    online: Client, http: httpx2.Client, iris: Subject, named: JobRecord, fresh_name: str
) -> None:
    others = [
        online.compute_influences(
            *iris.names, hessian_regularization=iris.damping, name=f"{fresh_name} {number}"
        ).id
        for number in range(2)
    ]
    expected = [others[1], others[0], named.id]
    assert [job.id for job in online.jobs.list(search=fresh_name, limit=2)] == expected[:2]
    found: list[str] = []
    query: dict[str, Any] = {"search": fresh_name, "limit": 1}
    while True:
        page = http.get("/v1/jobs", params=query).json()
        found += [job["id"] for job in page["items"]]
        if not page["has_more"]:
            break
        query["after"] = page["next_after"]
    assert found == expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "n" * 121}, "at most 120"),
        ({"name": "a\x07b"}, "printable"),
        ({"note": "n" * 4001}, "at most 4000"),
    ],
)
def test_what_is_no_name_is_refused(
    online: Client, named: JobRecord, change: dict[str, str], words: str
) -> None:
    with pytest.raises(errors.InvalidRequest, match=words):
        online.jobs.change(named.id, **change)


def test_names_are_no_part_of_what_is_computed(
    online: Client, iris: Subject, named: JobRecord
) -> None:
    again = online.compute_influences(
        *iris.names, hessian_regularization=iris.damping, name="twin", labels={"twin": "yes"}
    )
    record = online.jobs.get(again.id)
    assert record.cost is not None
    assert record.cost.hessian_passes == 0  # the solutions of the other one were taken


def test_the_command_names_lists_and_shows_jobs(stack: Running, named: JobRecord) -> None:
    def upweight(*words: str) -> str:
        command = [sys.executable, "-m", "upweight.cli", *words]
        environment = {**os.environ, "UPWEIGHT_URL": stack.url}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    upweight("jobs", "change", named.id[-8:], "--name", "after cleaning", "--note", "twice")
    assert "after cleaning" in upweight("jobs", "list", "--search", named.id)
    shown = upweight("jobs", "show", named.id)
    assert "after cleaning" in shown
    assert "twice" in shown


def test_a_dataset_is_shown_in_another_way_and_stays_what_it_is(
    online: Client, fresh_name: str
) -> None:
    x = np.random.default_rng(0).random((6, 4)).astype("f4")
    features = ["a", "b", "c", "d"]
    before = online.datasets.register(
        fresh_name, x=x, y=np.arange(6), preview={"kind": "table", "column": "x", "names": features}
    )
    picture = {"kind": "image", "column": "x", "shape": [2, 2]}
    after = online.datasets.change(before, preview=picture)
    assert after.preview is not None
    assert after.preview.kind == "image"
    assert after.digest == before.digest
    assert after.features_of("x") == features  # by which jobs match it
    plain = online.datasets.change(fresh_name, preview=None)
    assert plain.preview is None
    assert plain.features_of("x") == features


@pytest.mark.parametrize(
    ("preview", "words"),
    [
        ({"kind": "image", "column": "x", "shape": [3, 3]}, "as many numbers"),
        ({"kind": "image", "column": "x"}, "as many numbers"),
        ({"kind": "table", "column": "z"}, "no input or target .z.; there are x, y"),
        ({"kind": "table", "column": "x", "names": ["p", "q", "r", "s"]}, "when a dataset is"),
        ({"kind": "sound", "column": "x"}, "image"),
    ],
)
def test_a_preview_that_the_columns_do_not_fit_is_refused(
    online: Client, fresh_name: str, preview: dict[str, Any], words: str
) -> None:
    made = online.datasets.register(fresh_name, x=np.zeros((3, 4), "f4"), y=np.arange(3))
    with pytest.raises(errors.InvalidRequest, match=words):
        online.datasets.change(made, preview=preview)
    assert online.datasets.get(made).preview is None


@pytest.mark.parametrize(
    ("given", "pointer", "words"),
    [
        (
            {"preview": {"kind": "image", "column": "x", "shape": [3, 3]}},
            "/preview/shape",
            "as many",
        ),
        ({"preview": {"kind": "text", "column": "x"}}, "/preview/kind", "tokens of a text"),
        ({"preview": {"kind": "table", "column": "z"}}, "/preview/column", "there are x, y"),
        (
            {"preview": {"kind": "table", "column": "x", "names": list("pqrst")}},
            "/preview/names",
            "5 names are given, and a row of 'x' has 4 numbers",
        ),
        ({"class_names": ["a", "b", "b"]}, "/class_names", "classes 1 and 2 are both named 'b'"),
    ],
)
def test_a_slip_in_how_rows_are_shown_is_told_when_they_are_registered(
    online: Client, fresh_name: str, given: dict[str, Any], pointer: str, words: str
) -> None:
    with pytest.raises((errors.InvalidRequest, errors.Rejected), match=words) as caught:
        online.datasets.register(fresh_name, x=np.zeros((3, 4), "f4"), y=np.arange(3), **given)
    assert [error.pointer for error in caught.value.errors] == [pointer]
