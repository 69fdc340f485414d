"""Requests from what callers give: records for references, many ways to write rows, mistakes in words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

import upweight.late.numpy as np
from upweight.errors import InvalidRequest
from upweight.field_errors import field_errors
from upweight.results.rows import RowChoice, rows_text
from upweight.schema import (
    DatasetRecord,
    FieldError,
    InfluencesJob,
    JobRecord,
    ModelRecord,
    Selection,
)
from upweight.schema.curvature import STRUCTURES
from upweight.schema.inversion import METHODS, owners_of

M = TypeVar("M", bound=BaseModel)
FIELDS_SHOWN = 5
# What the computations take beside the parameters of their methods.
_KEYWORDS = [
    *(name for name in InfluencesJob.model_fields if name not in ("kind", "inversion")),
    *("test_rows", "train_rows", "test_where", "train_where", "input_data"),
    *("inversion_method", "hessian_perturbation"),
    *("wait", "timeout", "progress"),
]
_OF_METHODS = sorted(
    {field for method in METHODS.values() for field in method.model_fields} - {"method"}
)
_RANKS = {"rank", *(each.rank_field for each in METHODS.values() if each.rank_field)}
# Structures that stand for a method: what they leave of the curvature has an inverse of closed form.
SHORT_FORMS = [name for name, facts in STRUCTURES.items() if facts.closed_form]
# As HTTP and other libraries call them.
_ALIASES = {
    **dict.fromkeys(("lambda", "lam", "damping", "damp", "λ"), "hessian_regularization"),
    **dict.fromkeys(("inversion", "method", "solver"), "inversion_method"),
}
Referable = str | ModelRecord | DatasetRecord | JobRecord
Choice = str | DatasetRecord | Selection | Mapping[str, Any]


def reference(thing: Referable) -> str:
    """An id or a name; a record stands for its id."""
    if isinstance(thing, str) and thing:
        return thing
    found = getattr(thing, "id", None)
    if not isinstance(found, str):
        raise InvalidRequest(
            f"expected a record, an id or a name; got {thing!r:.80} ({type(thing).__name__})"
        )
    return found


def validated(kind: type[M], path: str, fields: Mapping[str, Any]) -> M:
    """The body that a path takes, or InvalidRequest with all that is wrong, before anything is sent."""
    try:
        return kind.model_validate(fields)
    except ValidationError as exc:
        raise invalid(exc, path, fields) from exc


def invalid(
    exc: ValidationError, path: str, body: Mapping[str, Any], at: tuple[str, ...] = ()
) -> InvalidRequest:
    """pydantic's errors in the service's own words. `at`: where in the body the model begins."""
    found = [{**error, "loc": ("body", *at, *error["loc"])} for error in exc.errors()]
    errors = field_errors(found, body, path)
    return InvalidRequest("; ".join(map(_in_words, errors[:FIELDS_SHOWN])), errors=errors)


def _in_words(error: FieldError) -> str:
    given = (
        ""
        if not error.pointer or error.value is None or str(error.value) in error.detail
        else f" (given: {error.value!r})"
    )
    return f"{error.pointer or 'the request'}: {error.detail}{given}"


def inversion(method: Any, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """An inversion's fields, checked: a parameter that its method does not take is named."""
    if isinstance(method, BaseModel):
        if parameters:
            raise InvalidRequest.field(
                f"/inversion/{next(iter(parameters))}",
                f"give it to {type(method).__name__}(…), or name the method by {_name(method)!r}",
                next(iter(parameters.values())),
            )
        return {**method.model_dump(mode="json", exclude_unset=True), "method": _name(method)}
    if isinstance(method, Mapping):  # as a job's record and an estimate have it
        own = {field: value for field, value in method.items() if field != "method"}
        twice = next((each for each in parameters if each in own), None)
        if twice is not None:
            words = "is in 'inversion_method' already; give one of both"
            raise InvalidRequest.field(f"/inversion/{twice}", words, parameters[twice])
        return inversion(method.get("method"), {**own, **parameters})
    name = getattr(method, "value", method)
    if not isinstance(name, str) or name not in METHODS:
        known = [*METHODS, *SHORT_FORMS]
        raise InvalidRequest.field(
            "/inversion/method",
            f"{name!r} is no inversion method{_meant(name, known) or '.'} There are {_words(known)}",
            name,
        )
    known = fields_of(name)
    for parameter, value in parameters.items():
        if parameter not in known:
            raise InvalidRequest.field(
                f"/inversion/{parameter}", _not_taken(parameter, name, known), value
            )
    try:
        METHODS[name].model_validate(parameters)
    except ValidationError as exc:
        body = {"kind": "influences", "inversion": {"method": name, **parameters}}
        raise invalid(exc, "/v1/jobs", body, ("inversion",)) from exc
    return {"method": name, **parameters}


def written_out(method: Any, curvature: Any) -> tuple[Any, Any]:
    """Method and curvature; a structure in place of the method is short for `direct` on the Fisher matrix's.

    A `curvature` beside it may say another kind.
    """
    name = getattr(method, "value", method)
    if not isinstance(name, str) or name not in SHORT_FORMS:
        return method, curvature
    if isinstance(curvature, BaseModel):
        curvature = curvature.model_dump(mode="json", exclude_unset=True)
    if curvature is not None and not isinstance(curvature, str | Mapping):
        return "direct", curvature  # what it is no value for says so
    given = {"kind": curvature} if isinstance(curvature, str) else dict(curvature or {})
    if given.get("structure", name) != name:
        raise InvalidRequest.field(
            "/curvature/structure",
            f"inversion_method={name!r} is short for this structure with method 'direct'; give one of both",
            given["structure"],
        )
    return "direct", {"kind": "fisher", **given, "structure": name}


def fields_of(method: Any) -> list[str]:
    """What a method that is named takes by keyword; nothing of one that brings its own."""
    name = method.get("method") if isinstance(method, Mapping) else getattr(method, "value", method)
    found = METHODS.get(name) if isinstance(name, str) else None
    return [field for field in found.model_fields if field != "method"] if found else []


def _name(method: BaseModel) -> Any:
    return getattr(method, "method", None)


def _not_taken(parameter: str, method: str, own: list[str]) -> str:
    owners, rank = owners_of(parameter), METHODS[method].rank_field
    if rank is not None and parameter in _RANKS:
        return f"{parameter!r} is no parameter of {method!r}; did you mean {rank!r}?"
    alias = difflib.get_close_matches(parameter.strip("_").lower(), _ALIASES, n=1, cutoff=0.75)
    named = _ALIASES[alias[0]] if alias else parameter
    meant = "" if parameter in _ALIASES else _meant(parameter, own)
    meant = meant or _meant(named, _KEYWORDS) or _meant(named, _OF_METHODS)
    if meant and not owners:
        return f"{parameter!r} is no parameter{meant}"
    elsewhere = f"it belongs to {_words(owners)}" if owners else "no method takes it"
    takes = f"takes {_words(own)}" if own else "takes no parameters"
    return f"{parameter!r} is not a parameter of {method!r}, which {takes}; {elsewhere}"


def _meant(given: Any, known: Iterable[str]) -> str:
    """What is like it, as a question, with the methods that take it where not all do; empty where nothing is."""
    near = difflib.get_close_matches(str(given), list(known), n=1)
    owners = owners_of(near[0]) if near else []
    of = f", of {_words(owners)}" if owners and len(owners) < len(METHODS) else ""
    return f"; did you mean {near[0]!r}{of}?" if near else ""


def _words(names: Any) -> str:
    *most, last = [repr(name) for name in names]
    return f"{', '.join(most)} and {last}" if most else last


def selection(
    choice: Choice, rows: RowChoice | None = None, where: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A dataset, or some of its rows; `rows` goes before those that the choice has itself."""
    if isinstance(choice, Selection):
        chosen: dict[str, Any] = choice.model_dump(mode="json", exclude_none=True)
    elif isinstance(choice, Mapping):
        chosen = {**choice, "dataset": reference(choice.get("dataset", ""))}
    else:
        chosen = {"dataset": reference(choice)}
    if rows is not None:
        chosen = {"dataset": chosen["dataset"], "rows": rows}
    if where is not None:
        chosen["where"] = where
    given = chosen.pop("rows", None)
    if isinstance(given, Mapping):
        chosen |= given
    elif (ids := named_ids(given)) is not None:
        chosen["ids"] = ids
    elif given is not None:
        chosen["rows"] = rows_text(given)
    if chosen.get("ids") is not None:
        chosen["ids"] = _plain(chosen["ids"])
    if chosen.get("where") is not None:
        chosen["where"] = {name: _plain(values) for name, values in chosen["where"].items()}
    return chosen


def named_ids(rows: Any) -> list[str] | None:
    """Ids where rows are a list of texts; else None."""
    if rows is None or isinstance(rows, str | slice | range | Mapping):
        return None
    values = np.atleast_1d(np.asarray(rows))
    if values.dtype.kind not in "UO" or not all(isinstance(each, str) for each in values.flat):
        return None
    return [str(each) for each in values.flat]


def _plain(values: Any) -> list[Any]:
    """One value or several as JSON has them."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, list | tuple | set | frozenset):
        return [values]
    return [each.item() if hasattr(each, "item") else each for each in values]
