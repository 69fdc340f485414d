"""A page of a stranger, shown by the user's browser, changes nothing of a service that needs no key."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx2
import pytest
from selenium.webdriver import Chrome

from service.local.background import Running

SENT = """
const [url, done] = arguments;
const form = (type) => ({method: "POST", mode: "no-cors", body: "{}", headers: {"Content-Type": type}});
const tries = [
  {method: "POST", mode: "no-cors"},
  {method: "POST", mode: "cors", headers: {"Content-Type": "application/json"}, body: "{}"},
  {method: "POST", mode: "no-cors", credentials: "include", referrerPolicy: "no-referrer"},
  form("text/plain"), form("application/x-www-form-urlencoded"),
];
Promise.allSettled(tries.map((each) => fetch(url, each))).then((all) => {
  navigator.sendBeacon(url);
  done(all.map((each) => each.status));
});
"""


class Page(BaseHTTPRequestHandler):
    """A page with a form that posts to the address in its query."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>stranger</title><form method=post></form>")

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def stranger() -> Iterator[str]:
    """Its origin: the service's address at another port, which is as near as a stranger comes."""
    server = HTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_no_request_of_another_origin_rotates_the_webhook_secret(
    browser: Chrome, stack: Running, stranger: str
) -> None:
    secret = httpx2.get(f"{stack.url}/v1/webhooks/secret").json()
    rotate = f"{stack.url}/v1/webhooks/secret/rotate"
    browser.get(stranger)
    sent = browser.execute_async_script(SENT, rotate)  # type: ignore[no-untyped-call]
    assert "fulfilled" in sent, "the browser must have sent some of them"
    browser.execute_script(  # type: ignore[no-untyped-call]
        "document.forms[0].action = arguments[0]; document.forms[0].submit()", rotate
    )
    assert "another origin" in browser.page_source
    assert httpx2.get(f"{stack.url}/v1/webhooks/secret").json() == secret
    assert httpx2.post(rotate).json() != secret, "who is no browser may still do it"
