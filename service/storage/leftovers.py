"""Uploads that broke off because their process was killed: nobody can read them, and the storage keeps them.

A folder keeps the staging files of writes that never ended (`NAME#1`, which obstore hides); S3 keeps the parts of
multipart uploads that were never completed, which are paid for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from importlib.util import find_spec
from os import scandir
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from service.logs import log
from service.storage.objects import Objects

_STAGED = re.compile(r"#\d+$")


@dataclass(frozen=True)
class BrokenUpload:
    """What an upload left, if it is not still under way: its age tells. S3 does not tell its size, which is then 0."""

    path: str
    size_bytes: int
    modified: datetime
    delete: Callable[[], object]


def broken_uploads(objects: Objects) -> Iterator[BrokenUpload]:
    """All that are in the storage. GCS and Azure delete such by themselves, or by a rule of the bucket."""
    if objects.folder is not None:
        yield from _staged(objects.folder)
    elif objects.url.startswith("s3://") and find_spec("botocore") is not None:
        yield from _multipart(objects)


def _staged(folder: Path) -> Iterator[BrokenUpload]:
    for file in _files(folder):
        if not _STAGED.search(file.name):
            continue
        try:
            state = file.stat()
        except FileNotFoundError:  # it came to its end meanwhile
            continue
        modified = datetime.fromtimestamp(state.st_mtime, UTC)
        yield BrokenUpload(
            file.name, state.st_size, modified, partial(file.unlink, missing_ok=True)
        )


def _files(folder: Path) -> Iterator[Path]:
    try:
        with scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from _files(Path(entry))
                else:
                    yield Path(entry)
    except FileNotFoundError:  # emptied and removed meanwhile
        return


def _multipart(objects: Objects) -> Iterator[BrokenUpload]:
    """By botocore, which the extra `s3` brings: obstore can't list uploads."""
    from botocore.exceptions import BotoCoreError, ClientError

    parts, options = urlsplit(objects.url), objects.options
    bucket, prefix = parts.netloc, parts.path.strip("/")
    try:
        client = _client(options.endpoint, options.region, options.timeout_seconds)
        pages = client.get_paginator("list_multipart_uploads")
        for page in pages.paginate(Bucket=bucket, Prefix=prefix):
            for upload in page.get("Uploads", ()):
                yield _upload(client, bucket, upload)
    except (
        BotoCoreError,
        ClientError,
    ) as error:  # a server that knows no such list, or no right to it
        log("multipart-uploads-not-listed", level="warning", error=type(error).__name__)


def _upload(client: Any, bucket: str, upload: dict[str, Any]) -> BrokenUpload:
    named = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
    abort = partial(client.abort_multipart_upload, **named)
    return BrokenUpload(upload["Key"], 0, upload["Initiated"], abort)


@lru_cache(maxsize=4)
def _client(endpoint: str | None, region: str | None, timeout_seconds: float) -> Any:
    from botocore.config import Config
    from botocore.session import get_session

    config = Config(
        connect_timeout=5,
        read_timeout=timeout_seconds,
        s3={"addressing_style": "path" if endpoint else "auto"},
    )
    return get_session().create_client(
        "s3", endpoint_url=endpoint, region_name=region, config=config
    )
