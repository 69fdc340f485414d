"""Records: compare-and-set, idempotency, indexes, and who may be deleted."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from service.storage.keys import by_label, by_state, by_use, new_id
from service.storage.records import Idempotency, Records
from service.storage.redis import connect
from upweight.errors import IdempotencyConflict, InUse, NotFound


@pytest.fixture
def records(redis_url: str) -> Records:
    return Records(connect(redis_url))


def model(records: Records, namespace: str = "a", name: str = "net") -> dict[str, Any]:
    version = records.next_version("model", namespace, name)
    document = {
        "id": new_id("model"),
        "name": name,
        "version": version,
        "state": "ready",
        "labels": {},
    }
    records.create("model", namespace, document)
    return document


def job(model_id: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": new_id("job"),
        "state": "queued",
        "labels": {},
        "model_id": model_id,
        "attempt": 0,
        **fields,
    }


def test_a_name_means_its_newest_version_and_a_number_that_one(records: Records) -> None:
    first, second = model(records), model(records)
    assert records.resolve("model", "a", "net")["id"] == second["id"]
    assert records.resolve("model", "a", "net@1")["id"] == first["id"]
    assert records.resolve("model", "a", first["id"])["id"] == first["id"]


def test_old_versions_of_a_name_with_many_are_found_by_reading_one_record(records: Records) -> None:
    made = [model(records)["id"] for _ in range(1100)]

    def read(reference: str) -> int:
        before = records.redis.info("commandstats")["cmdstat_hmget"]["calls"]
        assert records.resolve("model", "a", reference)["name"] == "net"
        return int(records.redis.info("commandstats")["cmdstat_hmget"]["calls"]) - before

    assert records.resolve("model", "a", "net@1")["id"] == made[0]
    assert records.resolve("model", "a", "net")["id"] == made[-1]
    assert read("net@1") == 1
    assert read("net") <= 5


def test_versions_recorded_before_there_was_an_index_of_them_are_found(records: Records) -> None:
    first, second = model(records), model(records)
    records.redis.delete("upweight:models:a:version:net")
    assert records.resolve("model", "a", "net@1")["id"] == first["id"]
    records.delete("model", "a", second["id"])
    assert records.resolve("model", "a", "net")["id"] == first["id"]
    with pytest.raises(NotFound, match="'net' has version 1;"):
        records.resolve("model", "a", "net@2")


def test_a_deleted_version_is_not_given_again(records: Records) -> None:
    first, second = model(records), model(records)
    records.delete("model", "a", second["id"])
    assert records.resolve("model", "a", "net")["id"] == first["id"]
    assert model(records)["version"] == 3


@pytest.mark.parametrize("reference", ["net", "net@1", "other", "mdl_01ARZ3NDEKTSV4RRFFQ69G5FAV"])
def test_nothing_of_another_namespace_is_found(records: Records, reference: str) -> None:
    model(records)
    with pytest.raises(NotFound):
        records.resolve("model", "b", reference)


def test_the_same_idempotency_key_answers_the_same_record(records: Records) -> None:
    document = model(records)
    once, again = job(document["id"]), job(document["id"])
    key = Idempotency("key", "fingerprint")
    assert records.create("job", "a", once, idempotency=key) == (once["id"], True)
    assert records.create("job", "a", again, idempotency=key) == (once["id"], False)
    assert records.create("job", "b", again, idempotency=key) == (again["id"], True)
    with pytest.raises(IdempotencyConflict):
        records.create("job", "a", again, idempotency=Idempotency("key", "another"))


def test_what_a_job_uses_stays_until_the_job_goes(records: Records) -> None:
    document = model(records)
    user = job(document["id"])
    records.create("job", "a", user)
    with pytest.raises(InUse, match=user["id"]):
        records.delete("model", "a", document["id"])
    records.delete("job", "a", user["id"])
    records.delete("model", "a", document["id"])
    with pytest.raises(NotFound):
        records.get("model", "a", document["id"])


def test_a_job_is_not_made_over_a_model_that_was_deleted_meanwhile(records: Records) -> None:
    document = model(records)
    records.delete("model", "a", document["id"])
    with pytest.raises(NotFound, match=document["id"]):
        records.create("job", "a", job(document["id"]), requires=[("model", document["id"])])


def test_no_update_is_lost_among_many_writers(records: Records) -> None:
    document = model(records)

    def add(found: dict[str, Any]) -> dict[str, Any]:
        return {**found, "count": found.get("count", 0) + 1}

    def work() -> None:
        for _ in range(5):
            records.update("model", "a", document["id"], add)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = records.get("model", "a", document["id"])
    assert found["count"] == 20
    assert found["revision"] == 21


def test_live_fields_are_seen_until_the_state_changes(records: Records) -> None:
    document = model(records)
    records.set_live("model", "a", document["id"], {"stage": "solve"})
    assert records.get("model", "a", document["id"])["stage"] == "solve"
    records.update("model", "a", document["id"], lambda found: {**found, "state": "rejected"})
    assert "stage" not in records.get("model", "a", document["id"])


def test_pages_meet_without_gap_or_overlap_in_both_orders(records: Records) -> None:
    document = model(records)
    made = [job(document["id"]) for _ in range(7)]
    for each in made:
        records.create("job", "a", each)
    ids = sorted(each["id"] for each in made)
    for newest_first in (True, False):
        seen: list[str] = []
        after = None
        while True:
            page = records.page("job", "a", limit=3, after=after, newest_first=newest_first)
            seen += page.ids
            if not page.has_more:
                break
            after = page.ids[-1]
        assert seen == sorted(ids, reverse=newest_first)


def test_filters_are_met_together_and_follow_the_state(records: Records) -> None:
    document, other = model(records), model(records)
    made = [job(document["id"], labels={"team": "vision", "n": str(n)}) for n in range(3)]
    made.append(job(other["id"], labels={"team": "vision"}))
    for each in made:
        records.create("job", "a", each)
    records.update("job", "a", made[0]["id"], lambda found: {**found, "state": "running"})
    filters = [by_label("team", "vision"), by_use(document["id"]), by_state("queued")]
    found = records.page("job", "a", limit=10, filters=filters)
    assert sorted(found.ids) == sorted(each["id"] for each in made[1:3])
    assert not found.has_more
    assert records.count("job", "a", "running") == 1
