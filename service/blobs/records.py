"""What the front end knows of a blob: whether it is there, and how large it is."""

from __future__ import annotations

from service.storage.layout import blob_path
from service.storage.objects import Objects
from upweight.errors import NotFound
from upweight.schema import BlobRecord


def find_blob(objects: Objects, namespace: str, digest: str) -> BlobRecord | None:
    """A namespace's blob, or None."""
    meta = objects.head(blob_path(namespace, digest))
    return BlobRecord(digest=digest, size_bytes=meta.size) if meta else None


def require_blob(objects: Objects, namespace: str, digest: str) -> BlobRecord:
    """A namespace's blob. Raises NotFound."""
    found = find_blob(objects, namespace, digest)
    if found is None:
        raise NotFound(f"there is no blob {digest} here; upload it with PUT /v1/blobs/{digest}")
    return found
