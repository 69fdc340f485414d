"""Questions to an index: rows as callers have them, and what is answered of each."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

import upweight.late.numpy as np
from upweight.errors import InvalidRequest, error_from
from upweight.field_errors import field_errors
from upweight.http.flow import Call, Flow, Reply, UnexpectedAnswer, segment
from upweight.http.polling import warned_of
from upweight.http.transport import ConnectionFailed
from upweight.results.rows import RowChoice, rows_text
from upweight.schema import Explained, IndexAnswer, IndexProgress, IndexQuery, Problem
from upweight.schema.indexes import MAXIMUM_QUERIES, different_lengths

Heard = Callable[[IndexProgress], None]
_PATH = "/v1/indexes"
NPZ = "application/x-npz"
BODY_BYTES = (
    3 * 1024**2
)  # of arrays: less than a service takes, if its operator has not changed that


def asked(
    id: str,
    columns: Mapping[str, Any],
    *,
    text: str | Sequence[str] | None = None,
    test: Any = None,
    test_rows: RowChoice | None = None,
    k: int,
    candidates: int,
    model: Any,
    progress: Heard | None = None,
) -> Flow[list[Explained]]:
    """What an index answers of each row: of many, some rows at a time."""
    fields: dict[str, Any] = {"k": k, "candidates": candidates}
    chosen = _chosen(test, test_rows)
    if chosen is not None:
        fields["test"] = chosen
    if model is not None:
        fields["model"] = getattr(model, "id", model)
    found: list[Explained] = []
    path = f"{_PATH}/{segment(id)}/query"
    if text is not None:
        texts = [text] if isinstance(text, str) else list(text)
        beside = _beside(texts, columns)
        _refuse_lengths({"text": texts, **beside})
        for first in range(0, max(1, len(texts)), MAXIMUM_QUERIES):
            here = slice(first, first + MAXIMUM_QUERIES)
            own = {"columns": {name: each[here] for name, each in beside.items()}} if beside else {}
            question = _checked({**fields, **own, "text": texts[here]}, path)
            call = Call("POST", path, json=_plain_json(question))
            found += (yield from _answered(call, progress)).rows
        return found
    for part in _parts(columns):
        found += (yield from _answered(_call(path, fields, part), progress)).rows
    return found


def _answered(call: Call, progress: Heard | None) -> Flow[IndexAnswer]:
    """As JSON, or by events where somebody hears what goes on. Raises what the question is refused with.

    What the answer remarks is warned of.
    """
    if progress is None:
        reply = yield call
        answer = reply.read(IndexAnswer)
    else:
        events = Events(progress)
        yield replace(call, sink=events)
        answer = events.answer()
    warned_of(answer.index, answer.remarks)
    return answer


class Events:
    """A sink of server-sent events: what goes on is heard, the last one is kept."""

    def __init__(self, heard: Heard) -> None:
        self._heard = heard
        self._line = b""
        self._name = ""
        self._last: tuple[str, bytes] | None = None

    def headers(self) -> Mapping[str, str]:
        return {"Accept": "text/event-stream", "Cache-Control": "no-store"}

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        self._line, self._name, self._last = b"", "", None
        kind = headers.get("content-type", "")
        if not kind.startswith("text/event-stream"):
            raise UnexpectedAnswer(
                f"expected server-sent events; the answer is {kind or 'untyped'}"
            )

    def write(self, chunk: bytes) -> None:
        *lines, self._line = (self._line + chunk).split(b"\n")
        for line in lines:
            name, _, value = line.partition(b": ")
            if name == b"event":
                self._name = value.decode()
            elif name == b"data":
                self._event(self._name, value)

    def _event(self, name: str, data: bytes) -> None:
        if name == "progress":
            self._heard(IndexProgress.model_validate_json(data))
        else:
            self._last = name, data

    def finish(self) -> None:
        if self._last is None:
            raise ConnectionFailed("the answer of an index broke off; ask again")

    def answer(self) -> IndexAnswer:
        """Raises what the service refused with."""
        assert self._last is not None
        name, data = self._last
        if name == "problem":
            problem = Problem.model_validate_json(data)
            error = error_from(problem)
            error.request_id = problem.request_id
            raise error
        return Reply(200, {}, data).read(IndexAnswer)


def _beside(texts: Sequence[str], columns: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Columns beside texts: lists with an entry a text; of one text, the entry may be given alone."""
    plain = {name: _plain(values) for name, values in columns.items()}
    single = len(texts) == 1 and any(not isinstance(each, list) for each in plain.values())
    found = {name: [each] if single else each for name, each in plain.items()}
    for name, each in found.items():
        if not isinstance(each, list):
            raise InvalidRequest(f"column {name!r} is one entry, and there are {len(texts)} texts")
    return found


def _plain_json(question: IndexQuery) -> dict[str, Any]:
    return question.model_dump(mode="json", exclude_unset=True)


def _call(path: str, fields: dict[str, Any], columns: Mapping[str, Any]) -> Call:
    """Arrays go as an npz: smaller than JSON, and exact. Raises InvalidRequest."""
    listed = {name: list(each) for name, each in columns.items()}
    question = _checked({**fields, **({"columns": listed} if columns else {})}, path)
    if not columns or any(isinstance(each, list) for each in columns.values()):
        return Call("POST", path, json=_plain_json(question))
    body = _npz(columns)
    address = [(name, str(value)) for name, value in fields.items()]
    return Call("POST", path, query=address, headers={"Content-Type": NPZ}, content=lambda: [body])


def _npz(columns: Mapping[str, Any]) -> bytes:
    """As numpy.savez writes it, which takes no column of the name `file`."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        for name, array in columns.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    return body.getvalue()


def _parts(columns: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """As many rows as one request takes; of no columns one part, which is empty."""
    rows = _rows(columns)
    _refuse_lengths(rows)
    count = len(next(iter(rows.values()), []))
    size = sum(getattr(each, "nbytes", 0) for each in rows.values())
    step = max(1, min(MAXIMUM_QUERIES, BODY_BYTES * count // max(1, size)))
    for first in range(0, max(1, count), step):
        yield {name: values[first : first + step] for name, values in rows.items()}


def _refuse_lengths(columns: Mapping[str, Any]) -> None:
    """Of many rows each request has a part, in which the lengths may well be the same. Raises InvalidRequest."""
    words = different_lengths({name: len(each) for name, each in columns.items()})
    if words is not None:
        raise InvalidRequest(words)


def _chosen(test: Any, rows: RowChoice | None) -> dict[str, Any] | None:
    """Rows of a dataset: its name, id or record, or a mapping with `dataset` and which rows."""
    if test is None:
        if rows is not None:
            raise InvalidRequest("'test_rows' are of 'test': give the dataset, too")
        return None
    found = dict(test) if isinstance(test, Mapping) else {"dataset": test}
    found["dataset"] = getattr(found.get("dataset"), "id", found.get("dataset"))
    chosen = found.pop("rows", None) if rows is None else rows
    if chosen is not None:
        found["rows"] = rows_text(chosen)
    return found


def _checked(fields: Mapping[str, Any], path: str) -> IndexQuery:
    try:
        return IndexQuery.model_validate(fields)
    except ValidationError as exc:
        errors = field_errors(
            [{**error, "loc": ("body", *error["loc"])} for error in exc.errors()], fields, path
        )
        words = "; ".join(f"{error.pointer or 'the request'}: {error.detail}" for error in errors)
        raise InvalidRequest(words, errors=errors) from exc


def _rows(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The rows of each column: arrays where one is an array and all can be, else nested lists.

    Where one column is a number alone, all are of one row.
    """
    arrays = {name: _array(values) for name, values in columns.items()}
    whole = any(hasattr(each, "detach") or hasattr(each, "dtype") for each in columns.values())
    if whole and all(each is not None for each in arrays.values()):
        single = any(not each.ndim for each in arrays.values())
        return {name: each[None] if single else each for name, each in arrays.items()}
    plain = {name: _plain(values) for name, values in columns.items()}
    single = any(not isinstance(values, list) for values in plain.values())
    return {name: [values] if single else values for name, values in plain.items()}


def _array(values: Any) -> Any:
    """Numbers or booleans as an array; None of what is none, such as rows of different shapes."""
    try:
        found = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    except (TypeError, ValueError, OverflowError):  # a dtype that numpy has not, ragged lists
        return None
    return found if found.dtype.kind in "biuf" and found.dtype.itemsize <= 8 else None


def _plain(values: Any) -> Any:
    """Nested lists, of arrays, tensors, frames, or what they are made of."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    if hasattr(values, "tolist"):
        return values.tolist()
    if isinstance(values, list | tuple):
        return [_plain(each) for each in values]
    return np.asarray(values).tolist()
