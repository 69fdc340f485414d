"""Every route of the OpenAPI document, so that a new one can't be forgotten: who may use it, and who may not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from dataclasses import field as entry
from typing import Any

import httpx2
import numpy as np
import pytest

from service.auth import Keys, Role
from service.openapi import document
from service.storage.layout import bank_folder
from service.storage.workers import register
from tests.service.acting import Acting, digest_of, field, problem
from tests.service.conftest import Front

WITHOUT_A_KEY = {"/healthz", "/readyz", "/metrics"}
ADMIN_ONLY = {"/v1/webhooks/secret", "/v1/webhooks/secret/rotate"}
READ_BY_POST = {"/v1/blobs/{digest}/url", "/v1/indexes/{id}/query"}
LISTS = {"/v1/models", "/v1/datasets", "/v1/jobs", "/v1/banks"}
NEW_CONTENT = b"a blob of whoever sends it"
BANK = "b" * 64


@dataclass(frozen=True)
class Route:
    """One operation of the document, and how to ask for it."""

    method: str
    path: str
    query: dict[str, Any] = entry(default_factory=dict)
    parameters: dict[str, str] = entry(default_factory=dict)  # of the query: name and JSON type

    @property
    def role(self) -> Role:
        """The lowest that may use it."""
        if self.path in ADMIN_ONLY:
            return Role.ADMIN
        reads = self.method in ("GET", "HEAD") or self.path in READ_BY_POST
        return Role.READ if reads else Role.WRITE

    @property
    def names_something(self) -> bool:
        """Whether it is about one thing that is there already."""
        return "{" in self.path and (self.method, self.path) != ("PUT", "/v1/blobs/{digest}")


@dataclass
class Everything:
    """One of each thing, of namespace `default`."""

    client: httpx2.Client
    keys: Keys
    routes: list[Route]
    things: dict[str, str]
    bodies: dict[str, Any]

    def headers(self, role: Role, namespace: str = "default") -> dict[str, str]:
        return bearer(self.keys.create(namespace, role, "test")[1])

    def ask(self, route: Route, headers: dict[str, str]) -> httpx2.Response:
        path, content = route.path, None
        if (route.method, path) == ("PUT", "/v1/blobs/{digest}"):
            path, content = f"/v1/blobs/{digest_of(NEW_CONTENT)}", NEW_CONTENT
        for name in ("digest", "reference", "id") if "{" in path else ():
            path = path.replace(f"{{{name}}}", self.things[path.split("/")[2]])
        assert "{" not in path, f"{route} has a kind of parameter that this test does not know"
        body = self.bodies.get(route.path) if route.method in ("POST", "PATCH") else None
        return self.client.request(
            route.method, path, params=route.query, json=body, content=content, headers=headers
        )


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def routes_of(front: Front) -> Iterator[Route]:
    for path, operations in document(front.app)["paths"].items():
        for method, operation in operations.items():
            parameters = [p for p in operation.get("parameters", []) if p["in"] == "query"]
            required = [each for each in parameters if each.get("required")]
            types = {each["name"]: str(each["schema"].get("type")) for each in parameters}
            query = {
                each["name"]: (each.get("examples") or each["schema"].get("examples") or ["0:1"])[0]
                for each in required
            }
            yield Route(method.upper(), path, query, types)


@pytest.fixture
def everything(ready: Acting, front: Front) -> Everything:
    job = ready.job(hessian_regularization=0.1)["id"]
    ready.succeed(job, matrix=np.ones((10, 50), np.float32))
    get = ready.client.get
    front.parts.objects.put(f"{bank_folder('default', BANK)}/0", b"retrained weights")
    things = {
        "banks": BANK,
        "blobs": ready.upload(b"the blob of default"),
        "models": get("/v1/models/net").json()["id"],
        "datasets": get("/v1/datasets/train").json()["id"],
        "jobs": job,
        "indexes": job,
    }
    bodies = {
        "/v1/models": ready.model_request("mine"),
        "/v1/datasets": ready.dataset_request("mine"),
        "/v1/jobs": ready.job_request(),
        "/v1/datasets/{reference}/derive": {"name": "derived", "drop": [1]},
        "/v1/datasets/{reference}": {"preview": {"kind": "table", "column": "x"}},
        "/v1/jobs/{id}": {"note": "mine"},
        "/v1/indexes/{id}/query": {"columns": {"x": [0.0]}},
    }
    front.parts.keys.create("default", Role.ADMIN, "first")
    about = {"device": "cpu", "host": "here", "version": "1", "torch": "2", "queues": []}
    register(front.parts.redis, "acting", about, ttl=60)  # so that the service is ready
    routes = list(routes_of(front))
    assert len(routes) >= 30
    return Everything(ready.client, front.parts.keys, routes, things, bodies)


def stored(front: Front) -> dict[str, Any]:
    """All records and objects but the keys, which the tests make."""
    redis = front.parts.redis
    names = [name for name in redis.keys("upweight:*") if b":keys" not in name]  # type: ignore[union-attr]
    records = {name: redis.dump(name) for name in names}
    objects = {meta.path: meta.size for meta in front.parts.objects.walk("")}
    return {**records, **{path: objects[path] for path in objects if not path.startswith("keys/")}}


def test_without_a_right_key_no_route_tells_or_does_anything(
    everything: Everything, front: Front
) -> None:
    key, revoked = everything.keys.create("default", Role.ADMIN, "revoked")
    everything.keys.revoke(key.id)
    _, good = everything.keys.create("default", Role.ADMIN, "good")
    wrong = [
        {},
        bearer(revoked),
        bearer(good[:-1] + ("0" if good[-1] != "0" else "1")),
        bearer(good.replace("uwk_", "uwk_0")),
        {"Authorization": f"Basic {good}"},
        {"X-API-Key": good},
        {"Cookie": f"key={good}"},
    ]
    before = stored(front)
    for route in everything.routes:
        for headers in wrong:
            answer = everything.ask(route, headers)
            if route.path in WITHOUT_A_KEY:
                assert answer.status_code == 200
            elif route.method == "HEAD":
                assert answer.status_code == 401, route
            else:
                problem(answer, 401, "unauthorized")
    assert stored(front) == before


def test_no_route_passes_over_a_query_parameter_that_it_does_not_have(
    everything: Everything, front: Front
) -> None:
    before = stored(front)
    asked = Counter[str]()
    for route in everything.routes:
        headers = everything.headers(route.role)
        for known in ["", *route.parameters]:
            wrong = f"{known}x" if known else "zzzz"
            assert wrong not in route.parameters
            answer = everything.ask(replace(route, query={**route.query, wrong: "1"}), headers)
            if route.path in WITHOUT_A_KEY:  # a probe is answered, whatever its address has
                assert answer.status_code == 200, route
                continue
            if route.method == "HEAD":
                assert answer.status_code == 422, route
                continue
            problem(answer, 422, "invalid-request")
            said = field(answer, f"query:{wrong}")
            assert said.startswith(f"there is no query parameter {wrong!r} here; "), said
            if route.parameters:
                assert f"nown are {', '.join(map(repr, route.parameters))}" in said
            else:
                assert said.endswith("this route takes none"), said
            # Of the shortest names another one may be as near.
            if len(known) > 2:
                assert f"; did you mean {known!r}? Known" in said, said
            asked[known] += 1
    assert asked[""] >= 40
    assert {"state", "damping", "dry_run", "wait", "method", "where"} <= asked.keys()
    assert stored(front) == before


def test_no_route_takes_the_last_of_two_values_where_one_is_meant(everything: Everything) -> None:
    asked = Counter[str]()
    for route in everything.routes:
        for name, type in route.parameters.items():
            twice = replace(route, query={**route.query, name: ["1", "2"]})
            answer = everything.ask(twice, everything.headers(route.role))
            if type == "array":
                assert "times" not in answer.text, (route, answer.text)
            else:
                said = field(answer, f"query:{name}")
                assert said == "is given 2 times, and takes one value"
            asked[type] += 1
    assert asked["array"] >= 3
    assert asked.total() >= 30


def test_who_has_no_key_is_told_that_first(everything: Everything) -> None:
    answer = everything.client.get("/v1/jobs", params={"stat": "failed"})
    assert problem(answer, 401, "unauthorized")["errors"] == []


def test_a_lower_role_is_told_what_is_needed_and_changes_nothing(
    everything: Everything, front: Front
) -> None:
    before = stored(front)
    refused = 0
    for route in everything.routes:
        for role in Role:
            if route.path in WITHOUT_A_KEY or list(Role).index(role) >= list(Role).index(
                route.role
            ):
                continue
            said = problem(everything.ask(route, everything.headers(role)), 403, "forbidden")
            assert f"'{route.role}'" in said["detail"], route
            refused += 1
    assert refused >= 13
    assert stored(front) == before


def test_the_right_role_is_let_in_everywhere(everything: Everything) -> None:
    last = [route for route in everything.routes if route.method == "DELETE"]
    first = [route for route in everything.routes if route.method != "DELETE"]
    for route in first + last:
        answer = everything.ask(route, everything.headers(route.role))
        assert answer.status_code not in (401, 403, 405), (route, answer.text)
        assert answer.status_code < 500, (route, answer.text)


def test_what_is_another_namespaces_is_not_there_on_any_route(
    everything: Everything, front: Front
) -> None:
    stranger = everything.headers(Role.ADMIN, "elsewhere")
    before = {name: value for name, value in stored(front).items() if "elsewhere" not in str(name)}
    walked = 0
    for route in everything.routes:
        if route.names_something:
            answer = everything.ask(route, stranger)
            assert answer.status_code == 404, (route, answer.text)
            walked += 1
    assert walked >= 20
    for path in LISTS:
        assert everything.client.get(path, headers=stranger).json()["items"] == []
    _nothing_can_be_made_of_it(everything, stranger)
    own = everything.ask(Route("PUT", "/v1/blobs/{digest}"), stranger)
    assert own.status_code == 201  # its own copy
    after = {name: value for name, value in stored(front).items() if "elsewhere" not in str(name)}
    assert set(after) - set(before) <= {b"upweight:namespaces"}
    assert all(after[name] == value for name, value in before.items())


def _nothing_can_be_made_of_it(everything: Everything, stranger: dict[str, str]) -> None:
    things, post = everything.things, everything.client.post
    job = everything.bodies["/v1/jobs"]
    for body in (
        job,
        {**job, "model": things["models"]},
        {**job, "train": {"dataset": things["datasets"]}, "factors": things["jobs"]},
    ):
        problem(post("/v1/jobs", json=body, headers=stranger), 404, "not-found")
    for path in ("/v1/models", "/v1/datasets"):
        # The blobs that these name are of the other namespace.
        problem(post(path, json=everything.bodies[path], headers=stranger), 422, "invalid-request")
    for filter in ({"model": things["models"]}, {"dataset": things["datasets"]}):
        answer = everything.client.get("/v1/jobs", params=filter, headers=stranger)
        problem(answer, 404, "not-found")


def test_each_namespace_has_a_secret_of_its_own(everything: Everything) -> None:
    route = Route("GET", "/v1/webhooks/secret")
    ours = everything.ask(route, everything.headers(Role.ADMIN)).json()["secret"]
    theirs = everything.ask(route, everything.headers(Role.ADMIN, "elsewhere")).json()["secret"]
    assert ours != theirs
