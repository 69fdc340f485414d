"""The folders of the storage that no result lies in; those of results and blobs are in `service/results/layout.py`."""

from __future__ import annotations

UPLOADS = "uploads"  # what came by presigned URLs and is not verified yet
SELF_TEST = "self-test"


def upload_path(namespace: str, digest: str) -> str:
    """Where a presigned URL puts bytes that claim a digest; nothing reads them as a blob from there."""
    return f"{UPLOADS}/{namespace}/{digest.removeprefix('sha256:')}"
