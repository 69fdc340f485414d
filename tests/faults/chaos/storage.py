"""The object storage of a chaotic run: a server of the S3 protocol that can be cut off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from service.storage.objects import Objects
from tests.faults.cutting_proxy import CuttingProxy, cutting_proxy
from tests.s3_server import S3Server


@dataclass(frozen=True)
class CutStorage:
    """A bucket behind a proxy: what the service is told of it, and its objects past the proxy."""

    environment: Mapping[str, str]
    proxy: CuttingProxy
    objects: Objects


@contextmanager
def cut_storage(s3: S3Server) -> Iterator[CutStorage]:
    """A new bucket of that server."""
    bucket = s3.bucket()
    with cutting_proxy(int(s3.endpoint.rpartition(":")[2])) as proxy:
        yield CutStorage(s3.environment(bucket, proxy.endpoint), proxy, s3.objects(bucket))
