"""The words that tokens stand for: a blob with a JSON list of texts."""

from __future__ import annotations

import json
import re

from service.blobs.records import find_blob
from service.storage.layout import blob_path
from service.storage.objects import Objects

MOST_BYTES = 32 * 1024**2
WHAT = f"a JSON list of words, of {MOST_BYTES // 1024**2} MiB at most"
# Seen before it is parsed: lists within a list would take twenty times their bytes. Nothing is tried twice.
_WORD = rb'"(?:[^"\\\x00-\x1f]|\\.)*+"'
_LIST = re.compile(rb"\s*+\[\s*+(?:" + _WORD + rb"\s*+(?:,\s*+" + _WORD + rb"\s*+)*+)?+\]\s*+")


def words_of(objects: Objects, namespace: str, digest: str) -> list[str] | None:
    """The word of each token; None where the blob is not there, too large, or no such list."""
    blob = find_blob(objects, namespace, digest)
    if blob is None or blob.size_bytes > MOST_BYTES:
        return None
    content = objects.get(blob_path(namespace, digest))
    if _LIST.fullmatch(content) is None:
        return None
    try:
        words: list[str] = json.loads(content)
    except ValueError:  # not UTF-8, or an escape that is none
        return None
    return words
