"""Datasets by `uri`: only under the prefixes that the operator allows, and never into the service's own storage."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.settings import Settings
from service.storage.objects import Objects, store_options
from service.storage.stores import SCHEMES, folder_of
from upweight.errors import InvalidRequest, UpweightError
from upweight.schema import DatasetFile
from upweight.schema.dataset import MAXIMUM_SHARDS

ENDINGS = {"parquet": ".parquet", "npz": ".npz", "safetensors": ".safetensors"}
_SEGMENT = re.compile(
    r"^[\w .=+,@~-]{1,255}$"
)  # no %, ?, #, \: what other readers of URLs make something of


@dataclass(frozen=True)
class Place:
    """A folder or prefix with files, or one file of it."""

    root: str
    name: str | None = None

    def open(self, settings: Settings) -> Objects:
        """Its objects, without making a folder that is not there."""
        return Objects(self.root, store_options(settings, front=True), create=False)


def allowed_place(uri: str, format: str, settings: Settings, namespace: str) -> Place:
    """Where a uri leads. Raises InvalidRequest unless that is under an allowed prefix."""
    scheme, segments = _split(uri)
    normal = _joined(scheme, segments)
    prefixes = [prefix.replace("{namespace}", namespace) for prefix in settings.dataset_prefixes]
    if not any(_is_under(normal, _joined(*_split(prefix))) for prefix in prefixes):
        raise _refused(
            "it is under no prefix that this service allows; the operator sets UPWEIGHT_DATASET_PREFIXES, "
            "or upload the files as 'blobs'",
            uri,
        )
    _refuse_own_storage(normal, settings, uri)
    place = Place(normal)
    if segments[-1].endswith(ENDINGS[format]):
        place = Place(_joined(scheme, segments[:-1]), segments[-1])
    folder = folder_of(place.root)
    if folder is not None and not folder.is_dir():
        raise _refused("there is no such folder", uri)
    return place


def files_of(place: Place, objects: Objects, format: str, uri: str) -> list[DatasetFile]:
    """The files there that have the format's ending, in the order of their names: the shards.

    Raises InvalidRequest.
    """
    if place.name is not None:
        found = [meta for meta in [objects.head(place.name)] if meta is not None]
    else:
        found = [meta for meta in objects.walk() if _is_shard(meta.path, ENDINGS[format])]
    if not found:
        what = "no such file" if place.name else f"no file that ends in {ENDINGS[format]}"
        raise _refused(f"there is {what} at this place", uri)
    if len(found) > MAXIMUM_SHARDS:
        raise _refused(
            f"there are {len(found)} files; at most {MAXIMUM_SHARDS} make a dataset", uri
        )
    files = [
        DatasetFile(path=meta.path, size_bytes=meta.size, etag=meta.etag or "*")
        for meta in sorted(found, key=lambda meta: meta.path)
    ]
    refuse_escapes(objects, [file.path for file in files], uri)
    return files


def refuse_escapes(objects: Objects, paths: Sequence[str], uri: str) -> None:
    """Raises InvalidRequest for a file of a folder that a link leads out of it."""
    if objects.folder is None:
        return
    inside = objects.folder.resolve()
    for path in paths:
        if not (objects.folder / path).resolve().is_relative_to(inside):
            raise _refused(f"{path!r} is a link out of the folder, which is not followed", uri)


def _is_shard(path: str, ending: str) -> bool:
    """Names that begin with `.` or `_` are what writers leave beside the data."""
    return path.endswith(ending) and not any(part[0] in "._" for part in path.split("/") if part)


def _split(uri: str) -> tuple[str, list[str]]:
    scheme, mark, rest = uri.partition("://")
    if not mark:
        scheme, rest = "file", uri
    if scheme == "file" and not rest.startswith("/"):
        raise _refused("a folder is named from the root: /data/digits or file:///data/digits", uri)
    if scheme not in (*SCHEMES, "file"):
        known = ", ".join(f"{each}://" for each in ("file", *SCHEMES))
        raise _refused(f"datasets are read from {known}, not from {scheme}://", uri)
    segments = rest.strip("/").split("/")
    for segment in segments:
        if segment in (".", "..") or not _SEGMENT.fullmatch(segment):
            raise _refused(
                f"{segment!r} can't be a part of it; write the full path with letters, digits and . = + , @ ~ - _",
                uri,
            )
    return scheme, segments


def _joined(scheme: str, segments: Sequence[str]) -> str:
    path = "/".join(segments)
    return f"/{path}" if scheme == "file" else f"{scheme}://{path}"


def _is_under(uri: str, prefix: str) -> bool:
    """By whole segments, and for folders by where links lead too."""
    if uri != prefix and not uri.startswith(f"{prefix}/"):
        return False
    here, there = folder_of(uri), folder_of(prefix)
    return here is None or there is None or here.resolve().is_relative_to(there.resolve())


def _refuse_own_storage(normal: str, settings: Settings, uri: str) -> None:
    folder = folder_of(settings.storage)
    own = str(folder.resolve()) if folder is not None else settings.storage.rstrip("/")
    there = folder_of(normal)
    place = str(Path(there).resolve()) if there is not None else normal
    if f"{own}/".startswith(f"{place}/") or f"{place}/".startswith(f"{own}/"):
        raise _refused("it leads into the service's own storage", uri)


def _refused(detail: str, uri: str) -> UpweightError:
    return InvalidRequest.field("/uri", detail, uri)
