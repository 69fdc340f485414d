"""Registering a dataset: that its shards are there, and look like their format. A worker checks the rest."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from service.auth import Caller
from service.blobs.records import find_blob
from service.datasets.preview import refuse_bad_preview
from service.datasets.sources import Source, blob_sources, file_sources
from service.datasets.uris import allowed_place, files_of
from service.lifecycle.states import now
from service.models.sniff import is_pickle
from service.parts import Parts
from service.registry import digest_of, ensure_check, enter, refuse_many_checks, repeated
from service.requests import Trace
from service.storage.keys import Document, new_id
from service.storage.records import Idempotency
from upweight.errors import InvalidRequest
from upweight.schema import (
    CheckState,
    DatasetFile,
    DatasetRecord,
    DatasetRequest,
    FieldError,
)

ASKED_AT_ONCE = 16  # a store far away takes tens of milliseconds for each of thousands of shards
ERRORS_SHOWN = 20
_FIRST_BYTES = 512
_HOW = {
    "npz": 'numpy.savez("data.npz", x=x, y=y)',
    "parquet": 'pyarrow.parquet.write_table(pyarrow.table({"x": x, "y": y}), "data.parquet")',
    "safetensors": 'safetensors.numpy.save_file({"x": x, "y": y}, "data.safetensors")',
}
_ENCRYPTED = b"PARE"


def register_dataset(
    parts: Parts,
    caller: Caller,
    request: DatasetRequest,
    idempotency: Idempotency | None,
    trace: Trace,
) -> Document:
    """A new record in state `checking`. Raises InvalidRequest, RateLimited."""
    earlier = repeated(parts, "dataset", caller.namespace, idempotency)
    if earlier is not None:
        ensure_check(parts, "dataset", caller.namespace, earlier, trace)
        return earlier
    refuse_many_checks(parts, caller.namespace)
    refuse_bad_preview(parts.objects, caller.namespace, request)
    if request.tokenizer is not None:
        size = _checked_size(parts, caller.namespace, [request.tokenizer], "/tokenizer")
    files, size = _shards(parts, caller.namespace, request)
    record = DatasetRecord(
        id=new_id("dataset"),
        version=parts.records.next_version("dataset", caller.namespace, request.name),
        state=CheckState.CHECKING,
        created_at=now(),
        digest=digest_of_shards(request, files),
        files=files,
        size_bytes=size,
        **request.model_dump(mode="json"),
    )
    return enter(parts, "dataset", caller, record.model_dump(mode="json"), idempotency, trace)


def _shards(parts: Parts, namespace: str, request: DatasetRequest) -> tuple[list[DatasetFile], int]:
    """The files that a `uri` names, and the size of all shards in bytes."""
    if request.uri is None:
        blobs = request.blobs or ()
        size = _checked_size(parts, namespace, blobs)
        refuse_bad_shard(blob_sources(parts.objects, namespace, blobs)[0], request.format)
        return [], size
    place = allowed_place(request.uri, request.format, parts.settings, namespace)
    objects = place.open(parts.settings)
    files = files_of(place, objects, request.format, request.uri)
    refuse_bad_shard(file_sources(objects, files)[0], request.format)
    return files, sum(file.size_bytes for file in files)


def _checked_size(
    parts: Parts, namespace: str, blobs: Sequence[str], pointer: str | None = None
) -> int:
    def size_of(digest: str) -> int | None:
        found = find_blob(parts.objects, namespace, digest)
        return found.size_bytes if found else None

    with ThreadPoolExecutor(min(ASKED_AT_ONCE, len(blobs))) as pool:
        sizes = list(pool.map(size_of, blobs))
    missing = [
        FieldError(
            pointer=pointer or f"/blobs/{index}",
            detail=f"there is no such blob here; upload it first: PUT /v1/blobs/{digest}",
            value=digest,
        )
        for index, (digest, size) in enumerate(zip(blobs, sizes, strict=True))
        if size is None
    ]
    if missing:
        raise InvalidRequest(
            f"{len(missing)} of {len(blobs)} blobs are not here; upload them first",
            errors=missing[:ERRORS_SHOWN],
        )
    return sum(size or 0 for size in sizes)


def digest_of_shards(of: DatasetRequest | DatasetRecord, files: Sequence[DatasetFile] = ()) -> str:
    """Of all that decides results of what lies in the shards; those of a record by `uri` are its own `files`."""
    decides = of.model_dump(mode="json", include={"format", "blobs", "uri", "inputs", "targets"})
    if of.features:
        decides["features"] = {name: list(each) for name, each in of.features.items()}
    files = of.files if isinstance(of, DatasetRecord) else files
    if files:
        decides["files"] = [file.model_dump(mode="json") for file in files]
    return digest_of(decides)


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
