"""What pydantic finds wrong with a request, in words for people: the same at the service and in the SDK.

An error names its field by a JSON pointer into the body as the user wrote it. Pydantic puts
the tags of unions into locations (`influences`, `cg`, `constrained-int`); the user wrote none of these.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from upweight.errors import shown
from upweight.schema import (
    DatasetRequest,
    DeriveRequest,
    FieldError,
    IndexQuery,
    JobRequest,
    ModelRequest,
)
from upweight.schema.inversion import owners_of
from upweight.schema.vectors import JOB_PATTERN

Schema = dict[str, Any]
_BODIES: dict[str, Any] = {
    "/v1/jobs": JobRequest,
    "/v1/models": ModelRequest,
    "/v1/datasets": DatasetRequest,
}
_BELOW = {
    re.compile(r"/v1/datasets/[^/]+/derive"): DeriveRequest,
    re.compile(r"/v1/indexes/[^/]+/query"): IndexQuery,
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
    path = path.rstrip("/")
    below = (body for pattern, body in _BELOW.items() if pattern.fullmatch(path))
    body = _BODIES.get(path) or next(below, None)
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
        pointer.append(pointer_step(part))
    return Place("".join(f"/{part}" for part in pointer), value, schema, parent, parent_value)


def pointer_step(part: str | int) -> str:
    """A name or number as a step of a JSON pointer (RFC 6901)."""
    return str(part).replace("~", "~0").replace("/", "~1")


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
            member = _member(schema.get("anyOf") or schema["oneOf"], value, root)
            if member is None:
                return schema, tag
            schema = member
        else:
            return {**schema, **words}, tag


def _tag(discriminator: Schema, value: Any) -> str | None:
    tag = value.get(discriminator["propertyName"]) if isinstance(value, dict) else value
    return tag if isinstance(tag, str) else None  # a bare 'mse' means {"name": "mse"}


def _member(members: list[Schema], value: Any, root: Schema) -> Schema | None:
    """The one member besides null, or the one for objects when the value is one: that with fields of these names."""
    real = [member for member in members if member.get("type") != "null"]
    if len(real) == 1:
        return real[0]
    objects = [each for each in real if {"$ref", "discriminator", "oneOf"} & each.keys()]
    if not isinstance(value, dict) or not objects:
        return None
    fitting = (
        each
        for each in objects
        if each.get("discriminator", {}).get("propertyName") in value
        or _referred(each, root).get("properties", {}).keys() & value.keys()
    )
    return next(fitting, objects[0])


def _referred(schema: Schema, root: Schema) -> Schema:
    """What a reference leads to; nothing of what is none."""
    reference = schema.get("$ref")
    return root["$defs"][reference.rpartition("/")[2]] if reference else {}


Found = dict[str, Any]  # one of pydantic's errors
_OUTSIDE = ("query", "path", "header", "cookie")


def field_errors(found: Sequence[Any], body: Any, path: str = "") -> list[FieldError]:
    """One error a field, in the order of the fields' first mention."""
    merged: dict[str, FieldError] = {}
    for error in found:
        if _follows_from_below(error, found):
            continue
        field = _field_error(error, body, path)
        seen = merged.get(field.pointer)
        if seen is None:
            merged[field.pointer] = field
        elif field.detail not in seen.detail:  # the members of a union, each with its own error
            merged[field.pointer] = seen.model_copy(
                update={"detail": f"{seen.detail}, or {field.detail}"}
            )
    return list(merged.values())


def _follows_from_below(error: Found, found: Sequence[Any]) -> bool:
    """A list is told to be too short, too, where its wrong members do not count."""
    at = tuple(error["loc"])
    return error["type"] == "too_short" and any(
        len(other["loc"]) > len(at) and tuple(other["loc"][: len(at)]) == at for other in found
    )


def _field_error(error: Found, body: Any, path: str) -> FieldError:
    source, *location = error["loc"]
    if error["type"] == "json_invalid":
        words = error["ctx"]["error"]
        return FieldError(
            pointer="", detail=f"the body is not JSON: {words} at character {location[0]}"
        )
    if source in _OUTSIDE:
        name = location[0] if location else ""
        place = Place(f"{source}:{name}", error.get("input"), {}, {}, None)
    else:
        place = locate(path, location, body)
        place = _at_discriminator(error, place)
    value = None if error["type"] == "missing" else shown(place.value)
    return FieldError(pointer=place.pointer, detail=_words(error, place), value=value)


def _at_discriminator(error: Found, place: Place) -> Place:
    """An unknown `method` is wrong at /inversion/method, not at /inversion."""
    if error["type"] not in ("union_tag_invalid", "union_tag_not_found"):
        return place
    name = error["ctx"]["discriminator"].strip("'")
    if not isinstance(place.value, dict):
        return place
    return Place(
        f"{place.pointer}/{name}", place.value.get(name), place.schema, place.schema, place.value
    )


def _words(error: Found, place: Place) -> str:
    words = _WORDS.get(error["type"])
    if words is not None:
        return words(error, place)
    if error["type"].startswith("string_") or error["type"].endswith("_type"):
        return _expected(error, place)
    return _lowered(error["msg"])


def _expected(error: Found, place: Place) -> str:
    description = place.schema.get("description")
    words = _lowered(error["msg"])
    return f"{words}. {description}" if description else words


def _lowered(message: str) -> str:
    message = message.removeprefix("Value error, ").removeprefix("Input ")
    message = message.replace("should be", "must be", 1).replace("should", "must", 1)
    message = message.replace("a valid tuple", "a list")
    return message[:1].lower() + message[1:] if message[1:2].islower() else message


def _missing(error: Found, place: Place) -> str:
    if not place.pointer:
        return "the body is missing; send a JSON object"
    description = place.schema.get("description")
    return f"is missing. {description}" if description else "is missing and must be given"


def _extra(error: Found, place: Place) -> str:
    name = place.pointer.rpartition("/")[2].replace("~1", "/").replace("~0", "~")
    known = list(place.parent.get("properties", {}))
    method = _method_of(place)
    owners = owners_of(name)
    if method is not None and owners:
        return (
            f"{name!r} is a parameter of {_listed(owners)}, not of {method!r}; leave it out, "
            f"or choose {_listed(owners)}. {method!r} takes {_listed(_without(known, 'method')) or 'no parameters'}"
        )
    if name == "hessian_perturbation":
        return "means the same as 'hessian_regularization'; give one of the two"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"there is no field {name!r} here; did you mean {near[0]!r}?"
    return f"there is no field {name!r} here; known are {_listed(known)}"


def _method_of(place: Place) -> str | None:
    """The inversion method that the error's parent is."""
    value = place.parent_value
    if "method" in place.parent.get("properties", {}) and isinstance(value, dict):
        return str(value.get("method"))
    return None


def _without(names: list[str], name: str) -> list[str]:
    return [other for other in names if other != name]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _unknown_tag(error: Found, place: Place) -> str:
    context = error["ctx"]
    allowed = [tag.strip().strip("'") for tag in context["expected_tags"].split(",")]
    name = context["discriminator"].strip("'")
    near = difflib.get_close_matches(str(context["tag"]), allowed, n=1, cutoff=0.6)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {name} {shown(context['tag'])!r}; {meant}allowed are {_listed(allowed)}"


def _no_tag(error: Found, place: Place) -> str:
    name = error["ctx"]["discriminator"].strip("'")
    allowed = list(place.schema.get("discriminator", {}).get("mapping", {}))
    return f"is missing; {name!r} is one of {_listed(allowed)}"


def _bound(word: str, key: str) -> Callable[[Found, Place], str]:
    def words(error: Found, place: Place) -> str:
        bound = error["ctx"][key]
        field = place.pointer.rstrip("0123456789").rstrip("/")  # or an entry of its list
        is_damping = field.endswith(("/hessian_regularization", "/hessian_perturbation"))
        return (
            f"{'λ must' if is_damping else 'must'} be {word} {bound:g}; it is {shown(place.value)}"
        )

    return words


def _literal(error: Found, place: Place) -> str:
    return f"must be {error['ctx']['expected']}"


def _pattern(error: Found, place: Place) -> str:
    if error["ctx"]["pattern"] == JOB_PATTERN:
        return f"{shown(place.value)!r} is no job's id; `upweight jobs list` and GET /v1/jobs list them"
    description = place.schema.get("description")
    return (
        f"has not the right form. {description}"
        if description
        else f"must match {error['ctx']['pattern']}"
    )


_OBJECTS = {
    "/inversion": '{"method": "cg"}',
    "/keep": '{"matrix": true, "top": 10}',
    "/preview": '{"kind": "image", "column": "x", "shape": [8, 8]}',
}


def _no_object(error: Found, place: Place) -> str:
    if not place.pointer:
        return "the body must be a JSON object"
    if place.pointer == "/loss":
        return "must be a name, such as 'cross_entropy', or a JSON object such as {'name': 'huber', 'delta': 2}"
    if place.pointer in _OBJECTS:
        return f"must be a JSON object, such as {_OBJECTS[place.pointer]}"
    if place.pointer in ("/train", "/test", "/hessian_on"):
        return 'must be a JSON object, such as {"dataset": "digits-train"}, with "rows" where only some are meant'
    return "must be a JSON object"


_WORDS: dict[str, Callable[[Found, Place], str]] = {
    "missing": _missing,
    "extra_forbidden": _extra,
    "union_tag_invalid": _unknown_tag,
    "union_tag_not_found": _no_tag,
    "greater_than": _bound("more than", "gt"),
    "greater_than_equal": _bound("at least", "ge"),
    "less_than": _bound("less than", "lt"),
    "less_than_equal": _bound("at most", "le"),
    "literal_error": _literal,
    "string_pattern_mismatch": _pattern,
    "model_attributes_type": _no_object,
    "model_type": _no_object,
    "dict_type": _no_object,
    "int_type": lambda error, place: "must be a whole number",
    "int_parsing": lambda error, place: "must be a whole number",
    "int_from_float": lambda error, place: "must be a whole number",
    "float_type": lambda error, place: "must be a number",
    "float_parsing": lambda error, place: "must be a number",
    "finite_number": lambda error, place: "must be a finite number",
    "bool_type": lambda error, place: "must be true or false",
    "bool_parsing": lambda error, place: "must be true or false",
    "too_short": lambda error, place: (
        f"must have at least {error['ctx']['min_length']}; it has {error['ctx']['actual_length']}"
    ),
    "too_long": lambda error, place: (
        f"may have at most {error['ctx']['max_length']}; it has {error['ctx']['actual_length']}"
    ),
    "value_error": lambda error, place: str(error["ctx"]["error"]),
}
