"""The first and last bytes of what is said to be a program: enough to refuse pickles and torn archives at once."""

from __future__ import annotations

from service.storage.layout import blob_path
from service.storage.objects import Objects
from upweight.errors import InvalidRequest

EXPORT = (
    "export the model instead: torch.export.save(torch.export.export(model.eval(), (x,), "
    'dynamic_shapes=({0: torch.export.Dim("batch")},)), "model.pt2")'
)
SAVE_WEIGHTS = 'save the weights instead: safetensors.torch.save_file(model.state_dict(), "weights.safetensors")'
_FIRST_BYTES = 512
_NAME_AT = 30  # of the name in a ZIP archive's first local header
_LAST_BYTES = 22 + 65_535  # the end record and the longest comment
_END_RECORD = b"PK\x05\x06"


def refuse_bad_archive(objects: Objects, namespace: str, digest: str, size: int, at: str) -> None:
    """Refuses what can't be a pt2 archive: a pickle, another format, one cut short. Raises InvalidRequest."""
    path = blob_path(namespace, digest)
    first = objects.get_range(path, 0, min(size, _FIRST_BYTES))
    _refuse_pickle(first, digest, at, EXPORT)
    if not first.startswith(b"PK\x03\x04"):
        raise InvalidRequest.field(at, f"the blob is no pt2 archive; {EXPORT}", digest)
    length = min(size, _LAST_BYTES)
    if _END_RECORD not in objects.get_range(path, size - length, length):
        raise InvalidRequest.field(
            at,
            f"the archive of {size} bytes has no end: it was cut short before its digest was taken; "
            "save and upload it again",
            digest,
        )


def refuse_bad_weights(objects: Objects, namespace: str, digest: str, size: int, at: str) -> None:
    """Refuses what can't be a safetensors file. Raises InvalidRequest."""
    first = objects.get_range(blob_path(namespace, digest), 0, min(size, _FIRST_BYTES))
    if first[8:9] == b"{":
        return  # its length may begin with any byte, a pickle's too
    _refuse_pickle(first, digest, at, SAVE_WEIGHTS)
    raise InvalidRequest.field(at, f"the blob is no safetensors file; {SAVE_WEIGHTS}", digest)


def _refuse_pickle(first: bytes, digest: str, at: str, instead: str) -> None:
    if is_pickle(first):
        raise InvalidRequest.field(
            at,
            f"the blob is a pickle (.pt, .pkl or TorchScript), which can run code when it is loaded and "
            f"is never accepted; {instead}",
            digest,
        )


def is_pickle(first: bytes) -> bool:
    """Whether a file begins as a pickle does, or as an archive of torch.save around one."""
    if first[:1] == b"\x80" and first[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return True
    length = int.from_bytes(first[26:28], "little")
    name = first[_NAME_AT : _NAME_AT + length]
    return first.startswith(b"PK\x03\x04") and name.endswith(b"/data.pkl")
