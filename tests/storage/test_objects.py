"""Objects: whole or absent, created once, read by range."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.storage.objects import Objects


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(str(tmp_path / "objects"))


def test_create_if_absent_writes_once_and_keeps_the_first_bytes(objects: Objects) -> None:
    assert objects.put_new("a/b", b"first")
    assert not objects.put_new("a/b", b"second")
    assert objects.get("a/b") == b"first"


def test_self_test_passes_and_leaves_nothing(objects: Objects, tmp_path: Path) -> None:
    objects.verify()
    assert [path for path in (tmp_path / "objects").rglob("*") if path.is_file()] == []


def test_a_stream_that_fails_leaves_nothing_and_its_own_error_comes_through(
    objects: Objects, tmp_path: Path
) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(4):
            yield bytes(6 * 1024**2)
        raise RuntimeError("the digest is wrong")

    with pytest.raises(RuntimeError, match="the digest is wrong"):
        objects.put_stream("a/b", chunks())
    assert objects.head("a/b") is None
    assert [path for path in (tmp_path / "objects").rglob("*") if path.is_file()] == []


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


def test_a_folder_cannot_sign(objects: Objects) -> None:
    assert objects.sign_or_none("GET", "a", 60) is None
