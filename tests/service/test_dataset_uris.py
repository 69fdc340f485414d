"""Datasets by uri: under the allowed prefixes only, in a fixed order, and pinned to what was there."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import numpy as np
import pytest

from service.local.redis_server import RedisServer
from service.settings import Settings
from service.storage.objects import Objects, store_options
from tests.patience import PATIENCE
from tests.s3_server import S3Server
from tests.service.acting import Acting, field, problem
from tests.service.conftest import Front, run_front, small_settings


def npz(value: float) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.full((2, 3), value), y=np.zeros(2))
    return buffer.getvalue()


class Lake:
    """A place that the operator allows, with files in it."""

    def __init__(self, front: Front, url: str) -> None:
        self.client = httpx2.Client(base_url=front.url, timeout=PATIENCE, trust_env=False)
        self.acting = Acting(self.client, front.parts)
        self.url = url
        self.objects = Objects(url, store_options(front.settings))
        self.settings = front.settings

    def register(self, uri: str, format: str = "npz") -> httpx2.Response:
        return self.acting.post("/v1/datasets", {"name": "d", "format": format, "uri": uri})


@pytest.fixture(scope="module", params=["folder", "s3"])
def lake(
    request: pytest.FixtureRequest,
    redis_server: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Lake]:
    storage = tmp_path_factory.mktemp("objects")
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        url, others = server.bucket(), server.settings()
    else:
        url, others = str(tmp_path_factory.mktemp("lake") / "allowed"), {}
    settings = small_settings(
        redis_server, storage, dataset_prefixes=f"{url},{storage},/srv/{{namespace}}", **others
    )
    with contextmanager(run_front)(settings) as front:
        made = Lake(front, url)
        for path in ("a/2.npz", "a/10.npz", "a/_tmp/3.npz", "a/.4.npz", "a/notes.txt", "b.npz"):
            made.objects.put(path, npz(1.0))
        made.objects.put("a/wrong.parquet", b"PK\x03\x04")
        yield made
        made.client.close()


def test_files_of_the_format_are_pinned_in_the_order_of_their_names(lake: Lake) -> None:
    answer = lake.register(f"{lake.url}/a")
    assert answer.status_code == 202, answer.text
    record = answer.json()
    assert [file["path"] for file in record["files"]] == ["10.npz", "2.npz"]
    assert record["size_bytes"] == 2 * len(npz(1.0))
    for file in record["files"]:
        meta = lake.objects.head(f"a/{file['path']}")
        assert meta is not None
        assert (file["etag"], file["size_bytes"]) == (meta.etag, meta.size)
    again = lake.register(f"{lake.url}/a/").json()
    assert again["digest"] == record["digest"] or again["uri"] != record["uri"]
    lake.objects.put("a/2.npz", npz(2.0))
    assert lake.register(f"{lake.url}/a").json()["digest"] != record["digest"]


def test_one_file_is_a_dataset(lake: Lake) -> None:
    record = lake.register(f"{lake.url}/b.npz").json()
    assert [file["path"] for file in record["files"]] == ["b.npz"]
    assert "no such file" in field(lake.register(f"{lake.url}/c.npz"), "/uri")


def test_a_place_without_such_files_is_refused(lake: Lake) -> None:
    assert "no file that ends in .safetensors" in field(
        lake.register(f"{lake.url}/a", "safetensors"), "/uri"
    )
    assert "no parquet file" in field(lake.register(f"{lake.url}/a", "parquet"), "/uri")


@pytest.mark.parametrize(
    "tail",
    [
        "/../x",
        "/a/../../b",
        "/./a",
        "//a",
        "/%2e%2e/x",
        "/a?b",
        "/a#b",
        "/a\\b",
        "/a\x00b",
        "ish/a",
    ],
)
def test_a_uri_that_could_lead_elsewhere_is_refused(lake: Lake, tail: str) -> None:
    problem(lake.register(lake.url + tail), 422, "invalid-request")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("http://host/a.npz", "not from http"),
        ("memory:///a.npz", "not from memory"),
        ("a/b.npz", "named from the root"),
        ("file://a/b.npz", "named from the root"),
        ("/etc", "UPWEIGHT_DATASET_PREFIXES"),
        ("s3://other-bucket/a", "UPWEIGHT_DATASET_PREFIXES"),
        ("gs://bucket/a", "UPWEIGHT_DATASET_PREFIXES"),
        ("/srv/default-not/a", "UPWEIGHT_DATASET_PREFIXES"),
        ("/srv/other/a", "UPWEIGHT_DATASET_PREFIXES"),
        ("/srv/default/a", "no such folder"),
    ],
)
def test_what_is_under_no_prefix_is_refused(lake: Lake, uri: str, words: str) -> None:
    said = field(lake.register(uri), "/uri")
    assert words in said


def test_the_service_s_own_storage_is_never_a_dataset(lake: Lake) -> None:
    for uri in (lake.settings.storage, f"{lake.settings.storage}/blobs/other"):
        assert "own storage" in field(lake.register(uri), "/uri")


def test_links_out_of_a_folder_are_not_followed(
    redis_server: RedisServer, redis_url: str, tmp_path: Path
) -> None:
    inside, outside = tmp_path / "lake", tmp_path / "secret"
    for folder in (inside / "a", outside):
        folder.mkdir(parents=True)
    (outside / "s.npz").write_bytes(npz(1.0))
    os.symlink(outside / "s.npz", inside / "a" / "s.npz")
    os.symlink(outside, inside / "out")
    settings: Settings = small_settings(
        redis_server, tmp_path / "objects", dataset_prefixes=str(inside)
    )
    with contextmanager(run_front)(settings) as front:
        lake = Lake(front, str(inside))
        with lake.client:
            assert "link out of the folder" in field(lake.register(f"{inside}/a"), "/uri")
            for uri in (f"{inside}/a/s.npz", f"{inside}/out"):
                assert "UPWEIGHT_DATASET_PREFIXES" in field(lake.register(uri), "/uri")


def test_without_a_prefix_every_uri_is_refused(acting: Acting) -> None:
    answer = acting.post("/v1/datasets", {"name": "d", "format": "npz", "uri": "/data/a.npz"})
    assert "upload the files as 'blobs'" in field(answer, "/uri")
