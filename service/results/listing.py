"""What a result consists of: the inversion's info, and its objects."""

from __future__ import annotations

import json
from typing import Any

from service.answers.formats import Numbers
from service.results.slices import tensors
from service.results.stored import StoredResult
from service.storage.tensors import read_entry
from upweight.errors import NotStored
from upweight.schema import ArraySpec, Files, Info, ResultFile

SIGNED_SECONDS = 3600


def info(result: StoredResult) -> Info:
    """What the inversion says of itself, and which arrays come with that."""
    arrays = [
        ArraySpec(
            name=name,
            dtype=str(entry.dtype),
            shape=list(entry.shape),
            size_bytes=entry.stop - entry.start,
        )
        for name, entry in sorted(tensors(result, result.paths.info).items())
    ]
    return Info(method=result.job.request.method_name, summary=result.job.info or {}, arrays=arrays)


def report(result: StoredResult) -> dict[str, Any]:
    """What a job found that is no array. Raises NotStored."""
    result.require("report")
    found: dict[str, Any] = json.loads(result.objects.get(result.paths.report))
    return found


def info_array(result: StoredResult, name: str) -> Numbers:
    """One array of the info. Raises NotStored naming those that are there."""
    entries = tensors(result, result.paths.info)
    if name not in entries:
        raise NotStored(
            f"the info has no array {name!r}; it has {', '.join(sorted(entries)) or 'none'}"
        )
    entry = entries[name]
    rows = entry.shape[0] if entry.shape else 1
    size = max(1, (entry.stop - entry.start) // max(1, rows))
    step = max(1, result.parts.settings.slice_bytes // size)
    blocks = (
        read_entry(result.objects, result.paths.info, entry, start, start + step)
        for start in range(0, rows, step)
    )
    return Numbers(entry.shape, entry.dtype, blocks)


def files(result: StoredResult) -> Files:
    """All objects of the result, with what the manifest says of them.

    What its end was merged from is deleted only after the job has succeeded, and is none of it.
    """
    prefix, merged = f"{result.paths.prefix}/", f"{result.paths.parts}/"
    entries = {entry["path"]: entry for entry in _manifest(result)}
    own = {
        meta.path.removeprefix(prefix): meta
        for meta in result.objects.walk(prefix.rstrip("/"))
        if not meta.path.startswith(merged)
    }
    shared = {path: entry for path, entry in entries.items() if "at" in entry}
    found = [
        ResultFile(
            path=path,
            size_bytes=size,
            digest=entries.get(path, {}).get("digest"),
            url=result.objects.sign_or_none("GET", at, SIGNED_SECONDS),
        )
        for path, size, at in (
            *((path, meta.size, meta.path) for path, meta in own.items()),
            *((path, entry["size_bytes"], entry["at"]) for path, entry in shared.items()),
        )
    ]
    return Files(files=sorted(found, key=lambda file: file.path))


def _manifest(result: StoredResult) -> list[dict[str, Any]]:
    """Each file with its digest, and where it lies when that is not below the result's own prefix."""
    try:
        manifest: Any = json.loads(result.objects.get(result.paths.manifest))
    except FileNotFoundError:
        return []
    return list(manifest.get("files", []))
