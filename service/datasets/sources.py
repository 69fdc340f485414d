"""Where the shards of a dataset lie: uploaded blobs, or files by uri that must still be those that were registered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.datasets.uris import allowed_place, refuse_escapes
from service.settings import Settings
from service.storage.failures import Changed
from service.storage.layout import blob_path
from service.storage.object_bytes import ObjectBytes
from service.storage.objects import Objects
from upweight.schema import DatasetFile, DatasetRecord


@dataclass(frozen=True)
class Source:
    """One shard."""

    objects: Objects
    path: str
    label: str  # what its owner calls it: a digest, or a file's path below the uri
    pointer: str  # the field of the request that named it
    file: DatasetFile | None = None

    def open(self) -> ObjectBytes:
        """Its bytes. Raises FileNotFoundError; reading them raises Changed when a file has been written anew."""
        if self.file is None:
            return ObjectBytes.of(self.objects, self.path)
        return ObjectBytes(self.objects, self.path, self.file.size_bytes, self.file.etag)

    def require_unchanged(self) -> None:
        """Raises FileNotFoundError, or Changed for a file that has been written anew."""
        meta = self.objects.head(self.path)
        if meta is None:
            raise FileNotFoundError(self.path)
        if self.file is not None and (meta.size, meta.etag) != (
            self.file.size_bytes,
            self.file.etag,
        ):
            raise Changed

    @property
    def gone(self) -> str:
        """What to say when it is not there any more."""
        if self.file is None:
            return "the blob has gone from the object storage; upload it again"
        return f"the file {self.label!r} has gone; put it back, or register the dataset again"

    @property
    def changed(self) -> str:
        """What to say when it is not what it was."""
        return (
            f"the file {self.label!r} has changed since the dataset was registered; put the old one back, "
            "or register the dataset again"
        )


def blob_sources(objects: Objects, namespace: str, blobs: Sequence[str]) -> list[Source]:
    """Uploaded shards in order."""
    return [
        Source(objects, blob_path(namespace, digest), digest, f"/blobs/{number}")
        for number, digest in enumerate(blobs)
    ]


def file_sources(objects: Objects, files: Sequence[DatasetFile]) -> list[Source]:
    """Files below a uri, in order."""
    return [Source(objects, file.path, file.path, "/uri", file) for file in files]


def sources_of(
    record: DatasetRecord, objects: Objects, namespace: str, settings: Settings
) -> list[Source]:
    """A registered dataset's shards in order. Raises InvalidRequest when its uri is not allowed any more."""
    if record.uri is None:
        return blob_sources(objects, namespace, record.blobs or ())
    place = allowed_place(record.uri, record.format, settings, namespace)
    there = place.open(settings)
    refuse_escapes(there, [file.path for file in record.files], record.uri)
    return file_sources(there, record.files)
