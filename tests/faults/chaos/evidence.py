"""What is kept of a result with other bytes than it must have: both results, the request, how far they are apart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from service.storage.layout import ResultPaths
from service.storage.objects import Objects
from upweight.schema import JobRecord

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Evidence:
    """Where results lie, and a folder for those that differ, which outlives the run."""

    storage: Objects
    kept: Path

    def keep(self, namespace: str, record: JobRecord, calm_in: str, calm: JobRecord) -> str:
        """Copies both results and their records; answers in words where they are and what differs."""
        folder = self.kept / record.id
        for name, where, job in (("found", namespace, record), ("calm", calm_in, calm)):
            self._copy(where, job.id, folder / name)
            (folder / f"{name}.record.json").write_text(job.model_dump_json(indent=2))
        found = differences(folder / "found", folder / "calm")
        (folder / "differences.json").write_text(json.dumps(found, indent=2))
        return f"{json.dumps(found)}; kept in {folder}"

    def _copy(self, namespace: str, id: str, folder: Path) -> None:
        prefix = ResultPaths(namespace, id).prefix
        for meta in self.storage.walk(prefix):
            file = folder / meta.path.removeprefix(f"{prefix}/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(self.storage.get(meta.path))


def differences(found: Path, right: Path) -> dict[str, str]:
    """What differs between two folders of results, by file. Manifest and plan name the job, so they may."""
    names = {
        str(file.relative_to(folder))
        for folder in (found, right)
        for file in folder.rglob("*")
        if file.is_file() and file.name not in ("manifest.json", "plan.json")
    }
    told = {name: _difference(found / name, right / name) for name in sorted(names)}
    return {name: words for name, words in told.items() if words}


def _difference(found: Path, right: Path) -> str:
    if not (found.exists() and right.exists()):
        return "only in " + ("the calm run" if right.exists() else "this one")
    one, other = found.read_bytes(), right.read_bytes()
    if one == other:
        return ""
    if len(one) != len(other):
        return f"{len(one)} bytes; {len(other)} in the calm run"
    try:
        arrays, expected = _arrays(found), _arrays(right)
    except Exception as error:  # whatever it is, the bytes are kept
        return f"other bytes, not readable as arrays ({type(error).__name__})"
    apart = {name: _apart(arrays[name], expected[name]) for name in arrays}
    return ", ".join(f"{name or 'chunk'}: {words}" for name, words in apart.items() if words)


def _arrays(file: Path) -> Mapping[str, Array]:
    """The arrays in a file by name: a safetensors file, or a chunk of a Zarr array."""
    described = next(
        (parent / "zarr.json" for parent in file.parents if (parent / "zarr.json").exists()), None
    )
    if described is None:
        return load_file(file)
    dtype = np.dtype(json.loads(described.read_text())["data_type"])
    return {"": np.frombuffer(file.read_bytes(), dtype)}


def _apart(one: Array, other: Array) -> str:
    """The largest difference relative to the largest entry, and how many entries differ."""
    unequal = (one != other) & ~(np.isnan(one) & np.isnan(other))
    if not unequal.any():
        return ""
    gap = np.abs(one.astype(np.float64) - other.astype(np.float64))
    scale = np.nanmax(np.abs(other.astype(np.float64)))
    nan = int((np.isnan(one) != np.isnan(other)).sum())
    largest = float(np.nanmax(gap)) / float(scale) if scale > 0 else float("inf")
    return f"{int(unequal.sum())} of {one.size} differ, at most by {largest:.3g} of the largest, {nan} NaN"
