"""Copies of records: the last state, whoever was first; nothing left out; nothing deleted that was merely lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from service.auth import Keys, Role
from service.storage.copies import Copies, path
from service.storage.keys import new_id
from service.storage.objects import Objects
from service.storage.records import Records
from service.storage.redis import connect

Json = dict[str, Any]


@pytest.fixture
def redis(redis_url: str) -> Redis:
    return connect(redis_url)


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(str(tmp_path))


@pytest.fixture
def records(redis: Redis) -> Records:
    return Records(redis)


@pytest.fixture
def copies(redis: Redis, objects: Objects) -> Copies:
    return Copies(redis, objects)


def made(records: Records, state: str = "queued", **fields: Any) -> str:
    document = {"id": new_id("job"), "state": state, "labels": {}, **fields}
    return records.create("job", "a", document)[0]


def to(records: Records, id: str, state: str) -> None:
    records.update("job", "a", id, lambda job: {**job, "state": state})


def stored(objects: Objects, id: str) -> Json:
    content: Json = json.loads(objects.get(path("job", "a", id)))
    return content["document"]


def test_every_change_but_running_waits_to_be_copied(records: Records, copies: Copies) -> None:
    id = made(records)
    assert copies.noted() == 1
    copies.save_noted()
    assert copies.noted() == 0
    to(records, id, "running")
    assert copies.noted() == 0
    to(records, id, "succeeded")
    assert copies.noted() == 1


def test_a_copy_is_the_last_state(records: Records, copies: Copies, objects: Objects) -> None:
    id = made(records)
    copies.save("job", "a", id)
    assert stored(objects, id)["state"] == "queued"
    to(records, id, "failed")
    copies.save_noted()
    assert stored(objects, id)["state"] == "failed"


def test_a_copy_that_was_overtaken_is_made_again(
    records: Records, copies: Copies, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that copies stands still, another copies a newer state, and then the first goes on."""
    id = made(records)
    write = objects.put

    def slow(where: str, data: bytes) -> None:
        monkeypatch.setattr(objects, "put", write)
        to(records, id, "failed")
        copies.save_noted()
        write(where, data)

    monkeypatch.setattr(objects, "put", slow)
    copies.save("job", "a", id)
    assert stored(objects, id)["state"] == "queued"
    assert copies.noted() == 1
    copies.save_noted()
    assert stored(objects, id)["state"] == "failed"
    assert copies.noted() == 0


def test_the_copy_of_a_deleted_record_goes(
    records: Records, copies: Copies, objects: Objects
) -> None:
    id = made(records)
    copies.save_noted()
    records.delete("job", "a", id)
    assert copies.there("job", "a", id)
    copies.save_noted()
    assert not copies.there("job", "a", id)
    assert copies.noted() == 0


def test_what_redis_has_lost_is_not_taken_for_deleted(
    records: Records, copies: Copies, redis: Redis
) -> None:
    id = made(records)
    copies.save_noted()
    redis.flushall()
    copies.save("job", "a", id)
    assert copies.there("job", "a", id)


def test_hundreds_of_changes_are_copied_a_bounded_number_at_a_time(
    records: Records, copies: Copies, objects: Objects
) -> None:
    for _ in range(120):
        made(records)
    assert copies.save_noted(limit=50) == 50
    while copies.save_noted(limit=50):
        pass
    assert len(list(objects.walk("records/a/jobs"))) == 120


def test_keys_are_copied_as_hashes_and_a_revoked_one_is_not_kept(
    redis: Redis, objects: Objects
) -> None:
    keys = Keys(redis, objects)
    kept, text = keys.create("a", Role.READ, "mine")
    gone, _ = keys.create("a", Role.READ, "other")
    assert keys.revoke(gone.id)
    assert not keys.revoke(gone.id)
    secret = text.rpartition("_")[2].encode()
    assert not any(secret in objects.get(meta.path) for meta in objects.walk("keys"))
    redis.flushall()
    assert keys.restore(dry_run=True) == 1
    assert not keys.any()
    assert keys.restore() == 1
    assert [key.id for key in keys.list()] == [kept.id]
    assert keys.caller(text).namespace == "a"
