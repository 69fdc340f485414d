"""Problem documents as they arrive, wherever they arrive: as an answer, or in the record of what failed later."""

from __future__ import annotations

import json
from typing import Any

import httpx2

Json = dict[str, Any]


def refused(answer: httpx2.Response, status: int, type: str, pointer: str | None = None) -> str:
    """The words of an answer that must be such a problem, about that field if one is given."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem = answer.json()
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert answer.status_code == status, answer.text
    return said(problem, status, type, pointer)


def said(problem: Json | None, status: int, type: str, pointer: str | None = None) -> str:
    """The words of a problem document."""
    assert problem is not None
    assert (problem["status"], problem["type"]) == (status, type), problem
    assert "NaN," not in json.dumps(problem)  # as a number; the word may be there
    assert "Traceback" not in problem["detail"]
    if pointer is None:
        return str(problem["detail"])
    errors = {error["pointer"]: error["detail"] for error in problem["errors"]}
    assert pointer in errors, problem
    return str(errors[pointer])
