"""The first bytes of the first shard: enough to refuse, at once, what is plainly not of the format."""

from __future__ import annotations

from service.datasets.sources import Source
from service.models.sniff import is_pickle
from upweight.errors import InvalidRequest

_FIRST_BYTES = 512
_HOW = {
    "npz": 'numpy.savez("data.npz", x=x, y=y)',
    "parquet": 'pyarrow.parquet.write_table(pyarrow.table({"x": x, "y": y}), "data.parquet")',
    "safetensors": 'safetensors.numpy.save_file({"x": x, "y": y}, "data.safetensors")',
}
_ENCRYPTED = b"PARE"


def refuse_bad_shard(source: Source, format: str) -> None:
    """Raises InvalidRequest. The other shards, and all that lies deeper, are a worker's to check."""
    what = "blob" if source.file is None else f"file {source.label!r}"
    try:
        content = source.open()
        first = content.read(0, min(content.size, _FIRST_BYTES))
    except FileNotFoundError:
        raise InvalidRequest.field(source.pointer, source.gone, source.label) from None
    if first[:4] == _ENCRYPTED:
        raise InvalidRequest.field(
            source.pointer, f"the {what} is encrypted; write it without", source.label
        )
    if not _is_right(first, format):
        found = "a pickle, which is never loaded" if is_pickle(first) else f"no {format} file"
        raise InvalidRequest.field(
            source.pointer, f"the {what} is {found}; write it with {_HOW[format]}", source.label
        )


def _is_right(first: bytes, format: str) -> bool:
    if format == "safetensors":
        return first[8:9] == b"{"
    return first.startswith(b"PK" if format == "npz" else b"PAR1")
