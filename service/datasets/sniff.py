"""The first bytes of the first shard: enough to refuse, at once, what is plainly not of the format."""

from __future__ import annotations

from service.models.sniff import is_pickle
from service.results.layout import blob_path
from service.storage.objects import Objects
from upweight.errors import InvalidRequest

_FIRST_BYTES = 512
_HOW = {
    "npz": 'numpy.savez("data.npz", x=x, y=y)',
    "safetensors": 'safetensors.numpy.save_file({"x": x, "y": y}, "data.safetensors")',
}


def refuse_bad_shard(objects: Objects, namespace: str, digest: str, format: str, size: int) -> None:
    """Raises InvalidRequest. The other shards, and all that lies deeper, are a worker's to check."""
    first = objects.get_range(blob_path(namespace, digest), 0, min(size, _FIRST_BYTES))
    right = first[8:9] == b"{" if format == "safetensors" else first.startswith(b"PK")
    if right:
        return
    what = "a pickle, which is never loaded" if is_pickle(first) else f"no {format} file"
    raise InvalidRequest.field(
        "/blobs/0", f"the blob is {what}; write it with {_HOW[format]}", digest
    )
