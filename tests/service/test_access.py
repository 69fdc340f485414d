"""Who may do what: keys, roles, namespaces, and the open door of one's own machine."""

from __future__ import annotations

import sys
from types import FrameType

import httpx2
import pytest

from service import auth
from service.auth import Keys, Role, is_loopback
from tests.service.acting import Acting, digest_of, problem
from tests.service.conftest import Front
from upweight.errors import Unauthorized

Headers = dict[str, str]


def bearer(keys: Keys, role: Role, namespace: str = "default") -> Headers:
    _, text = keys.create(namespace, role, "test")
    return {"Authorization": f"Bearer {text}"}


@pytest.fixture
def keys(front: Front, client: httpx2.Client) -> Keys:
    return front.parts.keys


def test_without_any_key_none_is_needed(client: httpx2.Client) -> None:
    assert client.get("/v1/jobs").status_code == 200


def test_with_a_key_set_one_is_needed(client: httpx2.Client, keys: Keys) -> None:
    headers = bearer(keys, Role.READ)
    answer = client.get("/v1/jobs")
    problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/v1/jobs", headers=headers).status_code == 200


def test_a_key_may_ask_what_it_is_good_for(client: httpx2.Client, keys: Keys) -> None:
    assert client.get("/v1/access").json()["role"] == "admin"  # the open door of one's own machine
    headers = bearer(keys, Role.WRITE, "vision")
    said = client.get("/v1/access", headers=headers).json()
    assert (said["namespace"], said["role"]) == ("vision", "write")
    assert said["key_id"] in headers["Authorization"]
    problem(client.get("/v1/access"), 401, "unauthorized")


def test_a_wrong_key_is_refused_with_the_same_words_whatever_is_wrong(
    client: httpx2.Client, keys: Keys
) -> None:
    right = bearer(keys, Role.WRITE)["Authorization"]
    id = right.split("_")[1]
    words = set()
    for wrong in (right[:-1], right + "0", f"Bearer uwk_{id}_{'0' * 48}", "Bearer x", "Bearer ü"):
        answer = client.get("/v1/jobs", headers={b"Authorization": wrong.encode()})
        words.add(problem(answer, 401, "unauthorized")["detail"])
    assert len(words) == 1


def test_a_revoked_key_ends_at_once(client: httpx2.Client, keys: Keys) -> None:
    bearer(keys, Role.READ)
    key, text = keys.create("default", Role.READ, "short")
    headers = {"Authorization": f"Bearer {text}"}
    assert client.get("/v1/jobs", headers=headers).status_code == 200
    assert keys.revoke(key.id)
    problem(client.get("/v1/jobs", headers=headers), 401, "unauthorized")


def test_the_secret_of_a_key_is_not_stored(front: Front, keys: Keys) -> None:
    _, text = keys.create("default", Role.READ, "mine")
    redis = front.parts.redis
    stored = b"".join(redis.hvals("upweight:keys"))  # type: ignore[arg-type]
    assert text.rsplit("_", 1)[1].encode() not in stored
    assert b"mine" in stored


def test_a_reader_reads_and_changes_nothing(client: httpx2.Client, keys: Keys) -> None:
    headers = bearer(keys, Role.READ)
    body = b"x"
    said = problem(
        client.put(f"/v1/blobs/{digest_of(body)}", content=body, headers=headers), 403, "forbidden"
    )["detail"]
    assert "'write'" in said
    for path in ("/v1/models/x", "/v1/datasets/x", "/v1/jobs/x"):
        problem(client.delete(path, headers=headers), 403, "forbidden")
        assert client.get(path, headers=headers).status_code == 404


def test_namespaces_can_not_be_reached_by_tricks_with_names(acting: Acting, keys: Keys) -> None:
    acting.ready()
    job = acting.job()["id"]
    stranger = bearer(keys, Role.ADMIN, "elsewhere")
    for id in (f"default:{job}", f"..%2Fdefault%2F{job}", f"x:job:default:{job}"):
        for path in (f"/v1/jobs/{id}", f"/v1/models/{id}", f"/v1/jobs/{id}/influences"):
            assert acting.client.get(path, headers=stranger).status_code == 404


def test_without_a_key_only_this_machines_own_names_are_answered(client: httpx2.Client) -> None:
    problem(client.get("/v1/jobs", headers={"Host": "evil.example"}), 401, "unauthorized")
    for host in ("localhost:80", "127.0.0.1", "[::1]:8765", "LOCALHOST"):
        assert client.get("/v1/jobs", headers={"Host": host}).status_code == 200


OTHER_PAGES = (
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "http://127.0.0.1.evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:1"},
)


@pytest.mark.parametrize("headers", OTHER_PAGES)
def test_without_a_key_a_strangers_page_changes_nothing(
    client: httpx2.Client, headers: Headers
) -> None:
    body, headers = b"{}", headers | {"Content-Type": "application/json"}
    for method, path in (
        ("POST", "/v1/webhooks/secret/rotate"),
        ("PUT", f"/v1/blobs/{digest_of(body)}"),
        ("POST", "/v1/jobs"),
        ("DELETE", "/v1/models/x"),
    ):
        answer = client.request(method, path, content=body, headers=headers)
        assert "another origin" in problem(answer, 403, "forbidden")["detail"]
    assert client.head(f"/v1/blobs/{digest_of(body)}").status_code == 404
    assert client.get("/v1/jobs", headers=headers).status_code == 200  # which no page can read


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_without_a_key_the_services_own_pages_work(client: httpx2.Client, site: str) -> None:
    host = client.base_url.netloc.decode()
    own = {"Origin": f"http://{host}", "Sec-Fetch-Site": site}
    assert client.post("/v1/webhooks/secret/rotate", headers=own).status_code == 200
    rest = {"Content-Type": "text/plain"}
    answer = client.post("/v1/webhooks/secret/rotate", headers={**own, **rest})
    problem(answer, 415, "unsupported-media-type")


def test_with_a_key_pages_of_other_origins_work(client: httpx2.Client, keys: Keys) -> None:
    headers = bearer(keys, Role.ADMIN) | {"Origin": "https://platform.example"}
    assert client.post("/v1/webhooks/secret/rotate", headers=headers).status_code == 200


def test_what_is_loopback() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.8.8.8", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "", "10.0.0.1", "localhost.evil.example")))


def test_checking_a_key_does_the_same_whether_its_id_is_known(keys: Keys) -> None:
    """No proof of constant time, but a lookup that stops early would show: a secret that need not be compared is."""
    key, _ = keys.create("default", Role.READ, "timed")

    def compared(id: str) -> list[str]:
        """What of hashing and comparing was done, in order."""
        found: list[str] = []

        def note(frame: FrameType, event: str, function: object) -> None:
            if event == "c_call" and frame.f_code.co_filename == auth.__file__:
                found.append(getattr(function, "__name__", ""))

        sys.setprofile(note)
        try:
            with pytest.raises(Unauthorized):
                keys.caller(f"uwk_{id}_{'0' * 48}")
        finally:
            sys.setprofile(None)
        return [name for name in found if name in ("openssl_sha256", "compare_digest")]

    assert compared(key.id) == compared("0" * 12) == ["openssl_sha256", "compare_digest"]
