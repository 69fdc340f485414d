"""Objects: whole or absent, created once, read by range."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.storage.failures import Changed
from service.storage.objects import Objects
from tests.s3_server import CREDENTIALS, unfinished

pytestmark = pytest.mark.both_storages


def everything(objects: Objects) -> list[str]:
    """All that the store holds, also what can't be read: staging files, parts."""
    if objects.folder is not None:
        return [str(path) for path in objects.folder.rglob("*") if path.is_file()]
    return [meta.path for meta in objects.walk()] + [each["Key"] for each in unfinished(objects)]


def test_create_if_absent_writes_once_and_keeps_the_first_bytes(objects: Objects) -> None:
    assert objects.put_new("a/b", b"first")
    assert not objects.put_new("a/b", b"second")
    assert objects.get("a/b") == b"first"


def test_a_creation_that_finds_its_own_bytes_is_a_success(objects: Objects) -> None:
    data = bytes(range(256)) * 40_000
    assert objects.put_new("a", data)
    assert objects.put_new("a", data)
    assert not objects.put_new("a", data[:-1] + b"x")
    assert not objects.put_new("a", data[:-1])
    assert objects.get("a") == data


def test_of_many_creators_at_once_one_wins(objects: Objects) -> None:
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda number: objects.put_new("a", bytes([number])), range(16)))
    assert won.count(True) == 1
    assert objects.get("a") == bytes([won.index(True)])


def test_self_test_passes_and_leaves_nothing(objects: Objects) -> None:
    objects.verify()
    assert everything(objects) == []


def test_a_stream_that_fails_leaves_nothing_and_its_own_error_comes_through(
    objects: Objects,
) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(4):
            yield bytes(6 * 1024**2)
        raise RuntimeError("the digest is wrong")

    with pytest.raises(RuntimeError, match="the digest is wrong"):
        objects.put_stream("a/b", chunks())
    assert objects.head("a/b") is None
    assert everything(objects) == []


def test_a_stream_of_many_parts_comes_back_byte_by_byte(objects: Objects) -> None:
    parts = [bytes([number]) * 3_000_000 for number in range(9)]
    objects.put_stream("a/b", iter(parts))
    assert b"".join(objects.open_stream("a/b")) == b"".join(parts)
    assert b"".join(objects.open_stream("a/b", 2_999_999, 3_000_001)) == b"\x00\x01"


def test_ranges_are_what_was_asked_for(objects: Objects) -> None:
    objects.put("a", b"0123456789")
    assert objects.get_range("a", 3, 4) == b"3456"
    assert objects.get_range("a", 3, 0) == b""
    assert objects.get_ranges("a", [(8, 2), (0, 1)]) == [b"89", b"0"]


def test_large_objects_go_and_come_in_pieces(objects: Objects) -> None:
    data = os.urandom(1024**2) * 70
    objects.put("a", data)
    assert objects.get_range("a", 0, len(data)) == data
    assert objects.get_range("a", 1, len(data) - 2) == data[1:-1]


def test_an_object_written_anew_is_not_taken_for_the_old_one(objects: Objects) -> None:
    objects.put("a", b"0123456789")
    meta = objects.head("a")
    assert meta is not None
    assert meta.etag is not None
    assert objects.get_unchanged("a", meta.etag, 2, 3) == b"234"
    objects.put("a", b"0123456780")
    with pytest.raises(Changed):
        objects.get_unchanged("a", meta.etag, 2, 3)


def test_what_is_not_there_is_said_so(objects: Objects) -> None:
    assert objects.head("no") is None
    with pytest.raises(FileNotFoundError):
        objects.get("no")
    with pytest.raises(FileNotFoundError):
        objects.open_stream("no")
    objects.delete(["no"])


def test_a_prefix_is_deleted_whole_and_its_neighbour_stays(objects: Objects) -> None:
    for path in ("results/job_1/a", "results/job_1/b/c", "results/job_10/a"):
        objects.put(path, b"x")
    objects.delete_prefix("results/job_1")
    assert [meta.path for meta in objects.walk("results")] == ["results/job_10/a"]


def test_many_are_deleted_whether_they_are_there_or_not(objects: Objects) -> None:
    objects.put("a/0", b"")
    objects.put("a/2", b"")
    objects.delete(["a/0", "a/1", "a/2"])
    assert list(objects.walk("a")) == []


def test_a_folder_cannot_sign_and_s3_can(objects: Objects) -> None:
    url = objects.sign_or_none("GET", "a", 60)
    assert (url is None) == (objects.folder is not None)
    assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in (url or "")
