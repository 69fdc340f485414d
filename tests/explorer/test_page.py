"""The explorer's page and its files, without a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.explorer import explorer_routes
from service.explorer.page import FILES

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
SOURCES = sorted(file for file in FILES.rglob("*") if file.is_file())
MODULES = [file for file in SOURCES if file.suffix == ".js"]


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(application()) as client:
        yield client


def application() -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None)
    explorer_routes(app)
    return app


def test_browsers_get_the_page_and_programs_the_other_addresses(client: TestClient) -> None:
    assert client.get("/", headers=BROWSER).headers["content-type"].startswith("text/html")
    answer = client.get("/", headers={"Accept": "application/json"})
    assert answer.json() == {"explorer": "/", "docs": "/docs", "openapi": "/openapi.json"}
    assert '</docs>; rel="service-doc"' in answer.headers["link"]


def test_whoever_asks_only_whether_the_page_is_there_is_told(client: TestClient) -> None:
    answer = client.head("/", headers=BROWSER)
    assert (answer.status_code, answer.content) == (200, b"")


def test_everything_the_page_names_is_served_and_every_module_named(client: TestClient) -> None:
    page = client.get("/", headers=BROWSER).text
    named = set(re.findall(r'(?:href|src)="(/explorer/[^"]+)"', page))
    for path in named:
        assert client.get(path).status_code == 200, path
    assert {f"/explorer/{file.relative_to(FILES).as_posix()}" for file in MODULES} <= named


def test_nothing_runs_or_is_asked_for_but_what_is_ours(client: TestClient) -> None:
    answer = client.get("/", headers=BROWSER)
    rules = dict(
        rule.split(" ", 1) for rule in answer.headers["Content-Security-Policy"].split("; ")
    )
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert "<script>" not in answer.text
    assert "style=" not in answer.text


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.relative_to(FILES).as_posix())
def test_a_file_is_short_and_makes_no_markup_of_text(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) < 300
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)
    addresses = set(re.findall(r"(?:https?:)?//[\w-]+\.[\w./]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("file", MODULES, ids=lambda file: file.relative_to(FILES).as_posix())
def test_a_module_imports_what_there_is(file: Path) -> None:
    for path, names in imports(file.read_text()):
        target = (file.parent / path).resolve()
        assert target.is_file(), path
        exported = set(
            re.findall(
                r"export (?:async )?(?:function\*?|class|const|let) (\w+)", target.read_text()
            )
        )
        assert names <= exported, (path, names - exported)


@pytest.mark.parametrize("file", MODULES, ids=lambda file: file.relative_to(FILES).as_posix())
def test_a_module_uses_what_it_imports(file: Path) -> None:
    text = file.read_text()
    for names in re.findall(r"^import \{(.+?)\} from", text, re.M):
        for name in names.split(","):
            assert len(re.findall(rf"\b{name.split()[-1]}\b", text)) > 1, name


def imports(text: str) -> Iterator[tuple[str, set[str]]]:
    for names, path in re.findall(r'^import (.+?) from "(.+?)";$', text, re.M):
        listed = re.match(r"\{(.*)\}", names)
        yield path, {name.split()[0] for name in listed[1].split(",")} if listed else set()


def test_behind_a_prefix_all_addresses_carry_it() -> None:
    with TestClient(application(), root_path="/upweight") as client:
        page = client.get("/upweight/", headers=BROWSER).text
        assert 'data-root="/upweight"' in page
        named = re.findall(r'(?:href|src)="(/[^"]+)"', page)
        assert all(path.startswith("/upweight/") for path in named)
        assert client.get("/upweight/explorer/app.js").status_code == 200


def test_no_path_leads_out_of_the_folder(client: TestClient) -> None:
    for path in ("../page.py", "%2e%2e/page.py", "..%2fpage.py", "../index.html"):
        assert client.get(f"/explorer/{path}").status_code == 404
