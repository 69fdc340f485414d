"""Results expire by age and by bytes, and say so; what belongs to nothing goes; what somebody needs stays."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from service.retention.expiry import Expired, Expiry
from service.retention.orphans import Orphan, Orphans
from service.storage.layout import ResultPaths, bank_folder, upload_path
from service.storage.shared import Shared, folder_of
from tests.service.acting import NAMESPACE, Acting, problem, submitted

FACTORS = np.ones((10, 15), "f4")


def ended(acting: Acting, days_ago: float = 0, size: int = 100, **values: Any) -> str:
    """A job that ended so long ago and stored so much."""
    id: str = acting.job(**values)["id"]
    acting.succeed(id, factors=FACTORS)
    moment = datetime.now(UTC) - timedelta(days=days_ago)
    acting.change(
        "job",
        id,
        finished_at=moment.isoformat(),
        result={**acting.client.get(f"/v1/jobs/{id}").json()["result"], "size_bytes": size},
    )
    return id


def expiry(acting: Acting, *, dry_run: bool = False, **settings: Any) -> Expiry:
    changed = acting.parts.settings.model_copy(update=settings)
    return Expiry(acting.parts.records, acting.parts.objects, changed, dry_run=dry_run)


def gone(found: Expiry) -> list[tuple[str, str]]:
    return [(each.job, each.reason) for each in found.one_pass() if isinstance(each, Expired)]


def objects_of(acting: Acting, id: str) -> list[str]:
    return [meta.path for meta in acting.parts.objects.walk(ResultPaths(NAMESPACE, id).prefix)]


def test_an_old_result_goes_and_its_record_says_so(ready: Acting) -> None:
    old, young = ended(ready, days_ago=8), ended(ready, days_ago=6)
    assert gone(expiry(ready, retention_days=7, dry_run=True)) == [(old, "age")]
    assert objects_of(ready, old) != []
    assert gone(expiry(ready, retention_days=7)) == [(old, "age")]
    assert objects_of(ready, old) == []
    assert objects_of(ready, young) != []
    record = ready.client.get(f"/v1/jobs/{old}").json()
    assert (record["state"], record["expired_at"] is not None) == ("succeeded", True)
    for path in ("influences", "top", "factors", "info", "files", "mean"):
        said = problem(ready.client.get(f"/v1/jobs/{old}/{path}"), 410, "result-expired")
    assert "start a job with the same request again" in said["detail"]
    assert ready.client.get(f"/v1/jobs/{young}/factors?rows=0:2").status_code == 200
    assert gone(expiry(ready, retention_days=7)) == []


class Ahead(datetime):
    """A clock that has jumped a month ahead."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        moment: Self = super().now(tz) + timedelta(days=30)
        return moment


def test_a_clock_that_jumps_ahead_expires_nothing_too_early(
    ready: Acting, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = ended(ready, days_ago=6)
    monkeypatch.setattr("service.storage.redis.datetime", Ahead)
    assert gone(expiry(ready, retention_days=7)) == []
    assert objects_of(ready, id) != []


def test_of_too_many_bytes_the_oldest_expire_once_all_are_known(ready: Acting) -> None:
    jobs = [ended(ready, size=size) for size in (30, 50, 60)]
    limited = expiry(ready, retention_bytes=100)
    assert gone(limited) == []
    assert gone(limited) == [(jobs[0], "bytes"), (jobs[1], "bytes")]
    assert gone(limited) == []
    assert ready.client.get(f"/v1/jobs/{jobs[2]}/factors?rows=0:2").status_code == 200


def test_factors_that_a_waiting_job_takes_stay_until_it_has_ended(ready: Acting) -> None:
    source = ended(ready, days_ago=30, keep={"factors": True})
    taker = ready.job(factors=source)["id"]
    assert gone(expiry(ready, retention_days=1)) == []
    ready.client.post(f"/v1/jobs/{taker}/cancel")
    assert (source, "age") in gone(expiry(ready, retention_days=1))
    refused = problem(submitted(ready, factors=source), 410, "result-expired")
    assert refused["errors"][0]["pointer"] == "/factors"


def test_what_a_failed_job_left_expires_and_a_retry_begins_anew(ready: Acting) -> None:
    id = ready.job()["id"]
    ready.parts.objects.put(f"{ResultPaths(NAMESPACE, id).prefix}/half", b"half")
    ready.client.post(f"/v1/jobs/{id}/cancel")
    ready.change("job", id, finished_at="2020-01-01T00:00:00+00:00")
    assert gone(expiry(ready, retention_days=1)) == [(id, "age")]
    assert objects_of(ready, id) == []
    assert ready.client.post(f"/v1/jobs/{id}/retry").json()["expired_at"] is None


def test_nothing_expires_unless_it_is_asked_for(ready: Acting) -> None:
    ended(ready, days_ago=5000)
    assert not expiry(ready).wanted


def test_a_walk_yields_for_every_job_so_that_its_reader_sets_the_pace(ready: Acting) -> None:
    for days in (0, 9, 9):
        ended(ready, days_ago=days)
    gone(expiry(ready, retention_days=7))
    assert list(expiry(ready, retention_days=7).one_pass()) == [None, None, None]


@pytest.fixture
def orphans(ready: Acting) -> Any:
    """What one pass deletes; nothing of other tests lies there."""
    ready.parts.objects.delete_prefix("results")
    ready.parts.objects.delete_prefix("shared")
    ready.parts.copies.now_whole()
    settings = ready.parts.settings.model_copy(update={"orphan_seconds": 3600.0})

    def found(*, dry_run: bool = False) -> list[str]:
        parts = ready.parts
        walk = Orphans(parts.records, parts.copies, parts.objects, settings, dry_run=dry_run)
        return [each.path for each in walk.one_pass() if isinstance(each, Orphan)]

    return found


def aged(acting: Acting, path: str, hours: float = 2.0) -> None:
    """An object, written so long ago."""
    acting.parts.objects.put(path, b"left")
    file = Path(acting.parts.settings.storage) / path
    moment = file.stat().st_mtime - hours * 3600
    os.utime(file, (moment, moment))


def test_results_without_a_job_and_broken_uploads_are_deleted_when_old(
    ready: Acting, orphans: Any
) -> None:
    id = "job_01ARZ3NDEKTSV4RRFFQ69G5FAV"
    lost, fresh = f"results/default/{id}/a", "results/default/job_other/a"
    aged(ready, lost)
    aged(ready, fresh, hours=0.5)
    blob = Path(ready.parts.settings.storage) / "blobs" / "default" / "zz"  # no digest begins so
    blob.mkdir(parents=True, exist_ok=True)
    for name, hours in (("old#1", 2), ("new#1", 0)):
        (blob / name).write_bytes(b"part")
        moment = (blob / name).stat().st_mtime - hours * 3600
        os.utime(blob / name, (moment, moment))
    aged(ready, "self-test/forgotten")
    never_completed = upload_path("default", "sha256:" + "0" * 64)
    aged(ready, never_completed)
    expected = ["old#1", lost, "self-test/forgotten", never_completed]
    assert orphans(dry_run=True) == expected
    assert orphans() == expected
    assert orphans() == []
    assert [file.name for file in blob.iterdir()] == ["new#1"]
    (blob / "new#1").unlink()  # other tests look for what is left over
    assert [meta.path for meta in ready.parts.objects.walk("results")] == [fresh]


def test_a_running_jobs_objects_and_those_of_a_lost_record_are_nobodys_prey(
    ready: Acting, orphans: Any
) -> None:
    id = ready.job()["id"]
    ready.begin(id)
    aged(ready, f"{ResultPaths(NAMESPACE, id).prefix}/block")
    assert orphans() == []
    ready.parts.redis.flushall()
    assert orphans() == []


def test_what_an_expiry_that_was_cut_short_left_is_deleted(ready: Acting, orphans: Any) -> None:
    id = ended(ready)
    ready.change("job", id, expired_at=datetime.now(UTC).isoformat())
    left = f"{ResultPaths(NAMESPACE, id).prefix}/chunk"
    aged(ready, left)
    assert left in orphans()


def test_while_redis_has_lost_records_nothing_is_taken_for_left_behind(
    ready: Acting, orphans: Any
) -> None:
    left = "results/default/job_01ARZ3NDEKTSV4RRFFQ69G5FAV/a"
    aged(ready, left)
    ready.parts.redis.flushall()
    assert orphans() == []
    ready.parts.copies.now_whole()
    assert left in orphans()


def test_fits_that_no_job_holds_go_and_an_expired_job_lets_go_of_its_own(
    ready: Acting, orphans: Any
) -> None:
    shared = Shared(ready.parts.redis, ready.parts.objects)
    names = [f"{letter * 64}-0" for letter in "ab"]
    id = ended(ready, days_ago=9)
    ready.change("job", id, shared=[names[0]])
    assert shared.hold(NAMESPACE, names[0], id)
    for name in names:
        aged(ready, f"{folder_of(NAMESPACE, name)}/fit")
    assert orphans() == [f"{folder_of(NAMESPACE, names[1])}/fit"]
    assert gone(expiry(ready, retention_days=7)) == [(id, "age")]
    assert list(ready.parts.objects.walk("shared")) == []
    assert shared.name(NAMESPACE, "a" * 64) == f"{'a' * 64}-1"


def test_banks_and_measured_qualities_stay_whatever_expires(ready: Acting) -> None:
    parts, bank = ready.parts, f"{bank_folder(NAMESPACE, 'ab' * 32)}/some.safetensors"
    parts.objects.put(bank, b"weights")
    parts.qualities.note(NAMESPACE, {"ab" * 32: {"value": 0.5}})
    old = ended(ready, days_ago=8)
    assert gone(expiry(ready, retention_days=7)) == [(old, "age")]
    settings = parts.settings.model_copy(update={"orphan_seconds": 0})
    list(Orphans(parts.records, parts.copies, parts.objects, settings).one_pass())
    assert parts.objects.head(bank) is not None
    assert parts.qualities.of(NAMESPACE, ["ab" * 32]) == [{"value": 0.5}]
    assert parts.objects.head(f"qualities/{NAMESPACE}/{'ab' * 32}.json") is not None
    for folder in ("banks", "qualities"):
        parts.objects.delete_prefix(folder)
