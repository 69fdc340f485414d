"""Opening a store: a folder, S3, GCS or Azure by its URL. Credentials come from where each cloud's own tools look."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError

from upweight.errors import Unavailable

SCHEMES = ("s3", "gs", "az")
_LONGEST_REQUEST = (
    10  # times the seconds of silence: a slow connection that makes progress is no fault
)
_FIRST_PAUSE = timedelta(milliseconds=100)
_LONGEST_PAUSE = timedelta(seconds=5)
_RETRIES = 20  # the seconds end it first


@dataclass(frozen=True)
class StoreOptions:
    """How a store is reached. Nothing in it is secret."""

    endpoint: str | None = None  # of a server that speaks S3, GCS or Azure; None: the cloud's own
    region: str | None = None
    allow_http: bool = False
    timeout_seconds: float = 30.0  # of silence in one request
    retry_seconds: float = 60.0  # a request that failed is tried again for this long


DEFAULTS = StoreOptions()


def folder_of(url: str) -> Path | None:
    """The folder that a URL or path names; None for a store elsewhere."""
    if "://" in url and not url.startswith("file://"):
        return None
    return Path(url.removeprefix("file://")).absolute()


def open_store(url: str, options: StoreOptions, *, create: bool = True) -> Any:
    """An obstore store; `create` makes a missing folder. Raises Unavailable for what can't be opened."""
    folder = folder_of(url)
    if folder is not None:
        return _folder(folder, create)
    _refuse(url, options)
    retries: Any = {
        "max_retries": _RETRIES,
        "retry_timeout": timedelta(seconds=options.retry_seconds),
        "backoff": {"init_backoff": _FIRST_PAUSE, "max_backoff": _LONGEST_PAUSE, "base": 2},
    }
    client: Any = {
        "allow_http": options.allow_http,
        "connect_timeout": timedelta(seconds=min(5.0, options.timeout_seconds)),
        "read_timeout": timedelta(seconds=options.timeout_seconds),
        "timeout": timedelta(seconds=_LONGEST_REQUEST * options.timeout_seconds),
    }
    try:
        return obstore.store.from_url(
            url,
            config=_config(url, options),
            client_options=client,
            retry_config=retries,
        )
    except (BaseError, ValueError, TypeError) as error:
        raise Unavailable(
            f"the object storage can't be opened: {type(error).__name__}; check UPWEIGHT_STORAGE and "
            "UPWEIGHT_STORAGE_REGION, and the credentials in the variables of your cloud's own tools"
        ) from error


def _config(url: str, options: StoreOptions) -> Any:
    google = url.startswith("gs://")
    named = {("base_url" if google else "endpoint"): options.endpoint}
    if url.startswith("s3://"):
        named["region"] = options.region
    return {name: value for name, value in named.items() if value}


def _folder(folder: Path, create: bool) -> Any:
    try:
        if create:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return obstore.store.LocalStore(str(folder), automatic_cleanup=True)
    except (OSError, BaseError) as error:
        raise Unavailable(f"the folder {folder} can't be used for objects: {error}") from error


def _refuse(url: str, options: StoreOptions) -> None:
    """What is never opened. The URL itself is not shown: it may hold what it should not."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise Unavailable(
            f"an object storage is a folder, or a URL of {', '.join(f'{each}://' for each in SCHEMES)} "
            f"or file://, not of {parts.scheme}://"
        )
    if parts.username or parts.password or parts.query:
        raise Unavailable(
            "the URL of the object storage holds credentials or a query; name the bucket alone, and give the "
            "credentials in the variables of your cloud's own tools, such as AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )
    if not parts.netloc:
        raise Unavailable(f"the URL of the object storage names no bucket: {parts.scheme}://BUCKET")
    if (options.endpoint or "").startswith("http://") and not options.allow_http:
        raise Unavailable(
            "the endpoint of the object storage is plain http, which anyone on the way can read; use https, "
            "or allow it with UPWEIGHT_STORAGE_ALLOW_HTTP=true"
        )
