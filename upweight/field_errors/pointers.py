"""From a validation error's location to a JSON pointer into the body as the user wrote it.

Pydantic puts the tags of unions into locations (`influences`, `cg`, `constrained-int`); the user wrote none of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from upweight.schema import DatasetRequest, JobRequest, ModelRequest

Schema = dict[str, Any]
_BODIES: dict[str, Any] = {
    "/v1/jobs": JobRequest,
    "/v1/models": ModelRequest,
    "/v1/datasets": DatasetRequest,
}


@dataclass(frozen=True)
class Place:
    """Where an error is: its pointer, the value there, and what the schema says of the place and of its parent."""

    pointer: str
    value: Any
    schema: Schema
    parent: Schema
    parent_value: Any


@cache
def body_schema(path: str) -> Schema:
    """The JSON schema of the body that a path takes; empty where it takes none."""
    body = _BODIES.get(path.rstrip("/"))
    return TypeAdapter(body).json_schema() if body is not None else {}


def locate(path: str, location: Sequence[str | int], body: Any) -> Place:
    """Walks body and schema side by side along a location (without its leading `body`)."""
    root = body_schema(path)
    schema, tag = _chosen(root, root, body)
    parent, parent_value, value = schema, body, body
    pointer: list[str] = []
    for index, part in enumerate(location):
        if part == tag:
            tag = None
            continue
        last = index == len(location) - 1
        if not _leads_on(value, part, schema, last):
            continue  # the label of a union's member
        parent, parent_value = schema, value
        value = value[part] if _has(value, part) else None
        schema, tag = _chosen(_below(schema, part), root, value)
        pointer.append(str(part).replace("~", "~0").replace("/", "~1"))
    return Place("".join(f"/{part}" for part in pointer), value, schema, parent, parent_value)


def _leads_on(value: Any, part: str | int, schema: Schema, last: bool) -> bool:
    if _has(value, part):
        return True
    return last and isinstance(value, dict) and part in schema.get("properties", {})


def _has(value: Any, part: str | int) -> bool:
    if isinstance(value, dict):
        return part in value
    return isinstance(value, list) and isinstance(part, int) and part < len(value)


def _below(schema: Schema, part: str | int) -> Schema:
    if isinstance(part, int):
        items = schema.get("items", {})
        return items if isinstance(items, dict) else {}
    below = schema.get("properties", {}).get(part, schema.get("additionalProperties", {}))
    return below if isinstance(below, dict) else {}


def _chosen(schema: Schema, root: Schema, value: Any) -> tuple[Schema, str | None]:
    """The schema that the value was checked against, with its own words kept; and the tag that chose it."""
    words: Schema = {key: schema[key] for key in ("description", "examples") if key in schema}
    tag: str | None = None
    while True:
        if "$ref" in schema:
            schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
        elif "discriminator" in schema:
            tag = _tag(schema["discriminator"], value)
            reference = schema["discriminator"]["mapping"].get(tag)
            if reference is None:
                return schema, None
            schema = {"$ref": reference}
        elif "anyOf" in schema or "oneOf" in schema:
            member = _member(schema.get("anyOf") or schema["oneOf"], value)
            if member is None:
                return schema, tag
            schema = member
        else:
            return {**schema, **words}, tag


def _tag(discriminator: Schema, value: Any) -> str | None:
    tag = value.get(discriminator["propertyName"]) if isinstance(value, dict) else value
    return tag if isinstance(tag, str) else None  # a bare 'mse' means {"name": "mse"}


def _member(members: list[Schema], value: Any) -> Schema | None:
    """The one member besides null, or the one for objects when the value is one."""
    real = [member for member in members if member.get("type") != "null"]
    if len(real) == 1:
        return real[0]
    objects = [each for each in real if {"$ref", "discriminator", "oneOf"} & each.keys()]
    if not isinstance(value, dict) or not objects:
        return None
    told = (each for each in objects if each.get("discriminator", {}).get("propertyName") in value)
    return next(told, objects[0])
