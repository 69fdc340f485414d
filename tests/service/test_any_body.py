"""Whatever is sent, the answer is a result or a problem that points at something: never a crash."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from tests.service.acting import Acting, Json

ODD: list[Any] = [
    None, True, 0, -1, 1.5, 1e308, 10**30, 2**63, "", "x", "a" * 300, "\u0000", "cg", "\ud83d\ude00", "../..",
    [], {}, [[]], {"method": "cg"}, {"name": "cross_entropy"}, {"": 1}, [None], "0:1", "-1:", "sha256:" + "0" * 64,
]  # fmt: skip
CASES = 150


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield (*path, index)
            yield from places(inner, (*path, index))


def changed(body: Json, choice: random.Random) -> Json:
    """The body with one or two places replaced, removed, or given a new neighbour."""
    body = copy.deepcopy(body)
    for _ in range(choice.randint(1, 2)):
        *way, last = choice.choice(list(places(body)))
        parent: Any = body
        for step in way:
            parent = parent[step]
        match choice.randrange(3):
            case 0:
                parent[last] = choice.choice(ODD)
            case 1:
                del parent[last]
            case _ if isinstance(parent, dict):
                parent[choice.choice(["rank", "rtol", "x/y~z", "", "kind", "é"])] = choice.choice(
                    ODD
                )
        if not body:
            return body
    return body


def bodies(acting: Acting) -> dict[str, Json]:
    full = acting.job_request(
        keep={"matrix": True, "top": 3},
        labels={"team": "a"},
        batch_size="auto",
        inversion={"method": "cg", "preconditioner": {"name": "nystroem", "rank": 3}},
        train={"dataset": "train", "rows": "0:10,3"},
    )
    preview = {"kind": "image", "column": "x", "shape": [2, 2]}
    return {
        "/v1/jobs": full,
        "/v1/models": acting.model_request(loss={"name": "cross_entropy"}, parameters=["*"]),
        "/v1/datasets": acting.dataset_request(
            preview=preview, class_names=["a"], labels={"b": "c"}
        ),
    }


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/models", "/v1/datasets"])
def test_changed_bodies_are_answered_in_words(acting: Acting, path: str) -> None:
    acting.ready()
    good = bodies(acting)[path]
    choice = random.Random(7)
    for _ in range(CASES):
        body = changed(good, choice)
        answer = acting.client.post(
            path, content=json.dumps(body), headers={"Content-Type": "application/json"}
        )
        said = answer.json()
        assert answer.status_code in (202, 404, 409, 422, 429, 501), (body, said)
        if answer.status_code == 422 and said["type"] == "invalid-request":
            assert said["errors"], (body, said)
            for error in said["errors"]:
                assert exists(body, error["pointer"]), (body, error)


def exists(body: Any, pointer: str) -> bool:
    """Whether a pointer leads to a place of the body, or to a field that one of its objects lacks."""
    steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
    for index, step in enumerate(steps):
        if isinstance(body, list):
            body = body[int(step)]
        elif isinstance(body, dict) and step in body:
            body = body[step]
        else:
            return index == len(steps) - 1
    return True


def test_deep_nesting_is_refused_or_kept_never_a_crash(acting: Acting) -> None:
    for depth in (50, 200, 500, 900, 990, 2000):
        nested = '{"a":' * depth + "1" + "}" * depth
        text = (
            '{"name": "n", "loss": "mse", "program": {"format": "factory", "weights": "sha256:'
            + "0" * 64
            + '", "factory": "torchvision.models:resnet18", "kwargs": '
            + nested
            + "}}"
        )
        headers = {"Content-Type": "application/json"}
        answer = acting.client.post("/v1/models", content=text, headers=headers)
        assert answer.status_code == 422, (depth, answer.text[:300])
