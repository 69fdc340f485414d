"""Names in Redis: identifiers, records, and the indexes by which records are found."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Literal

from ulid import ULID

Kind = Literal["model", "dataset", "job"]
Document = dict[str, Any]

PREFIX = "upweight"
CHANGES = f"{PREFIX}:changes"  # published: "kind namespace id" at every change
NAMESPACES = f"{PREFIX}:namespaces"  # those that have ever had a record
UNSAVED = f"{PREFIX}:unsaved"  # messages of records whose copy in the object storage is not their last state
DELETED = f"{PREFIX}:deleted"  # messages of records that are gone, and whose copy is still there
WHOLE = (
    f"{PREFIX}:whole"  # set while Redis has all that was ever recorded; gone when Redis has lost it
)
IDEMPOTENCY_SECONDS = 7 * 86_400

ID_PREFIX: dict[Kind, str] = {"model": "mdl", "dataset": "dst", "job": "job"}
_ULID = re.compile(r"^[0-9A-HJKMNP-TV-Z]{26}$")


def new_id(kind: Kind) -> str:
    """A new identifier; those made later sort later."""
    return f"{ID_PREFIX[kind]}_{ULID()}"


def made_at(id: str) -> float:
    """When an identifier was made, in seconds since 1970 by its maker's clock."""
    return float(ULID.from_str(id.partition("_")[2]).timestamp)


def is_id(kind: Kind, text: str) -> bool:
    """Whether a text has the form of an identifier of this kind."""
    prefix, _, rest = text.partition("_")
    return prefix == ID_PREFIX[kind] and _ULID.fullmatch(rest) is not None


def by_state(state: str) -> str:
    """The filter for records in a state."""
    return f"state:{state}"


def by_label(key: str, value: str) -> str:
    """The filter for records with a label."""
    return f"label:{hashlib.sha256(f'{key}={value}'.encode()).hexdigest()}"


def by_use(id: str) -> str:
    """The filter for jobs that use a model or dataset."""
    return f"uses:{id}"


def by_name(name: str) -> str:
    """The filter for all versions of a name."""
    return f"name:{name}"


def by_version(name: str) -> str:
    """The versions of a name: the one index whose scores count, as they are the versions."""
    return f"version:{name}"


def indexes(kind: Kind, namespace: str, document: Document) -> dict[str, int]:
    """The sorted sets that list a record, each with its score there."""
    filters = [by_state(document["state"])]
    filters += [by_label(key, value) for key, value in document.get("labels", {}).items()]
    filters += [by_use(id) for id in used_ids(document)]
    versioned = kind != "job" and "name" in document  # a job's name is only what people call it
    if versioned:
        filters.append(by_name(document["name"]))
    base = list_key(kind, namespace)
    scores = dict.fromkeys([base, *(f"{base}:{filter}" for filter in filters)], 0)
    if versioned:
        scores[f"{base}:{by_version(document['name'])}"] = int(document["version"])
    derived = document.get("derived_from")
    if kind == "dataset" and derived:
        scores[users_index("dataset", namespace, derived["dataset"])] = 0
    return scores


def used_ids(document: Document) -> list[str]:
    """The ids that a job's document refers to, each once, and the shared folders (see `shared`)."""
    fields = ("model_id", "train_id", "test_id", "hessian_id")
    ids = {document[field] for field in fields if document.get(field)}
    return sorted(ids | set(document.get("shared", ())))


def record_key(kind: str, namespace: str, id: str) -> str:
    return f"{PREFIX}:{kind}:{namespace}:{id}"


def list_key(kind: str, namespace: str) -> str:
    return f"{PREFIX}:{kind}s:{namespace}"


def state_index(kind: str, namespace: str, state: str) -> str:
    return f"{list_key(kind, namespace)}:{by_state(state)}"


def users_index(kind: Kind, namespace: str, id: str) -> str:
    return f"{list_key('job', namespace)}:{by_use(id)}"


def idempotency_key(kind: str, namespace: str, idempotency: str | None) -> str:
    if idempotency is None:
        return ""
    digest = hashlib.sha256(idempotency.encode()).hexdigest()
    return f"{PREFIX}:idempotency:{namespace}:{kind}:{digest}"


def versions_key(kind: str, namespace: str) -> str:
    return f"{PREFIX}:versions:{kind}:{namespace}"


def message(kind: str, namespace: str, id: str) -> str:
    return f"{kind} {namespace} {id}"
