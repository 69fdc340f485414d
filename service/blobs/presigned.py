"""A blob that came to the object storage by a presigned URL: it is read once, past SHA-256, and written as a blob.

The bytes that were verified are the bytes that are written: a copy inside the storage could be of others, for the
URL is good for an hour and its holder may write again between the look and the copy.
"""

from __future__ import annotations

from service.blobs.upload import in_thread, too_large, verified
from service.parts import Parts
from service.results.layout import blob_path
from service.storage.layout import upload_path
from service.storage.read_ahead import read_ahead
from upweight.errors import DigestMismatch, NotFound, TooLarge
from upweight.schema import BlobRecord


async def accept_upload(parts: Parts, namespace: str, digest: str) -> BlobRecord:
    """The blob. Raises NotFound when nothing came, and DigestMismatch or TooLarge, which delete what came."""
    size = await in_thread(parts.uploads, lambda: _accept(parts, namespace, digest))
    return BlobRecord(digest=digest, size_bytes=size)


def _accept(parts: Parts, namespace: str, digest: str) -> int:
    objects, path = parts.objects, upload_path(namespace, digest)
    limit = parts.settings.blob_bytes
    try:
        meta = objects.head(path)
        if meta is None:
            raise FileNotFoundError(path)
        if meta.size > limit:
            raise too_large(limit)
        # In another thread: what an object is written from can't read objects in the same one.
        chunks = verified(read_ahead(objects.open_stream(path)), digest, limit)
        objects.put_stream(blob_path(namespace, digest), chunks)
    except FileNotFoundError:
        raise NotFound(
            f"nothing has come for {digest}; PUT the bytes to the URL that POST /v1/blobs/{digest}/url?method=PUT "
            "answers, then complete"
        ) from None
    except (DigestMismatch, TooLarge):
        objects.delete([path])
        raise
    objects.delete([path])
    return meta.size
