"""The API's pages and the files behind them, without a browser."""

import hashlib
import json
import re
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.docs import docs_routes
from service.docs.page import FILES

VENDORED = json.loads((FILES.parent / "vendored.json").read_text())


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(application()) as client:
        yield client


def application() -> FastAPI:
    app = FastAPI(title="Upweight & co", docs_url=None, redoc_url=None)
    docs_routes(app)
    return app


@pytest.mark.parametrize(("name", "digest"), VENDORED["sha256"].items())
def test_a_vendored_file_is_what_was_published(name: str, digest: str) -> None:
    assert hashlib.sha256((FILES / name).read_bytes()).hexdigest() == digest


def test_every_file_served_is_vendored_or_our_own() -> None:
    assert {file.name for file in FILES.iterdir()} == {
        *VENDORED["sha256"],
        "start.js",
        "examples.js",
    }


def test_the_page_names_no_address_of_another_machine(client: TestClient) -> None:
    page = client.get("/docs").text
    assert re.findall(r"(?:https?:)?//[\w.]+", page) == []
    assert "<script>" not in page
    assert "Upweight &amp; co" in page


def test_everything_the_page_asks_for_is_served(client: TestClient) -> None:
    page = client.get("/docs").text
    wanted = re.findall(r'(?:href|src|data-openapi)="([^"]+)"', page)
    assert len(wanted) == 7
    for path in wanted:
        assert client.get(path).status_code == 200, path


def test_the_page_allows_no_script_and_no_connection_but_ours(client: TestClient) -> None:
    policy = client.get("/docs").headers["Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"


def test_behind_a_prefix_all_addresses_carry_it() -> None:
    with TestClient(application(), root_path="/upweight") as client:
        page = client.get("/upweight/docs").text
        for path in re.findall(r'(?:href|src|data-openapi)="([^"]+)"', page):
            assert path.startswith("/upweight/")
            assert client.get(path).status_code == 200, path


def test_redoc_leads_to_the_one_page_that_there_is(client: TestClient) -> None:
    answer = client.get("/redoc", follow_redirects=False)
    assert answer.status_code == 307
    assert answer.headers["Location"] == "/docs"


def test_no_path_leads_out_of_the_folder(client: TestClient) -> None:
    for path in ("../page.py", "%2e%2e/page.py", "..%2fpage.py", "/etc/passwd"):
        assert client.get(f"/docs/static/{path}").status_code == 404
