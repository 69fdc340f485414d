"""The API's pages in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import element_to_be_clickable

from demo.journey import Journey
from service.local.background import Running
from tests.browser.page import (
    assert_calm,
    first,
    paste,
    press,
    requests,
    screenshot,
    until,
    waiting,
)
from tests.browser.subject import Subject, trained
from tests.patience import PATIENCE, ended
from upweight import Client

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

# What the demo leaves nothing to do for: the answer says so.
CONFLICTS = {
    ("post", "/v1/jobs/{id}/cancel"),  # all have ended
    ("post", "/v1/jobs/{id}/retry"),  # all have succeeded
    ("post", "/v1/blobs/{digest}/url"),  # a folder cannot sign
}
ABSENT = {  # what only other kinds of job leave than the newest one, or one with groups, or of tokens
    ("delete", "/v1/banks/{id}"),
    ("get", "/v1/jobs/{id}/report"),
    ("get", "/v1/jobs/{id}/report.html"),
    ("get", "/v1/jobs/{id}/rescaled"),
    ("get", "/v1/jobs/{id}/gradients"),
    ("get", "/v1/jobs/{id}/products"),
    ("get", "/v1/jobs/{id}/bm25"),
}
ELSEWHERE = {  # tested where they belong: the first needs a presigned upload, the second would be missed
    ("post", "/v1/blobs/{digest}/complete"),
    ("delete", "/v1/jobs/{id}"),
}


def test_every_operation_is_shown_and_no_request_leaves_the_machine(
    browser: Chrome, stack: Running
) -> None:
    browser.get(f"{stack.url}/docs")
    shown = operations(browser)

    assert {"POST /v1/jobs", "POST /v1/models", "PUT /v1/blobs/{digest}", "GET /readyz"} <= shown
    assert_calm(browser, stack.url)


def test_every_example_runs_as_it_stands_on_the_demos_data(
    browser: Chrome, digits: Subject
) -> None:
    with Client(digits.url) as client:  # the newest job with everything kept
        client.jobs.wait(client.jobs.create(example_of_jobs(digits.url)).id)
    browser.get(f"{digits.url}/docs")
    operations(browser)
    shown = until(browser, lambda: filled(browser))
    with httpx2.Client(base_url=digits.url, timeout=PATIENCE, trust_env=False) as http:
        served = http.get("/openapi.json").json()["paths"]
        first_examples = {
            (method, path): first_example(operation)
            for path, item in served.items()
            for method, operation in item.items()
        }
        tried = {
            (method, path): status_of(http, method, path, operation, first_examples[method, path])
            for path, item in shown["paths"].items()
            for method, operation in item.items()
            if (method, path) not in ELSEWHERE
        }
        bodies = shown["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
        for name, example in bodies["examples"].items():
            job = http.post("/v1/jobs", json=example["value"]).json()
            done = ended(http, f"/v1/jobs/{job['id']}")
            assert done["state"] == "succeeded", (name, done["problem"])
    refused = {call: status for call, status in tried.items() if status >= 400}
    assert refused == {**dict.fromkeys(CONFLICTS, 409), **dict.fromkeys(ABSENT, 404)}
    assert_calm(browser, digits.url)


def example_of_jobs(url: str) -> dict[str, Any]:
    paths = httpx2.get(f"{url}/openapi.json", trust_env=False).json()["paths"]
    content = paths["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
    found: dict[str, Any] = content["examples"]["cg"]["value"]
    return found


def filled(browser: Chrome) -> Any:
    """The document with the examples that the page has put in."""
    found = browser.execute_script("return ui.specSelectors.specJson().toJS()")  # type: ignore[no-untyped-call]
    return found if "job_" + "0" * 26 not in str(found) else None


def first_example(operation: dict[str, Any]) -> str | None:
    """The example that the page shows: the browser's answer has lost the order."""
    content = operation.get("requestBody", {}).get("content", {})
    return next(iter(content.get("application/json", {}).get("examples", {})), None)


def status_of(
    http: httpx2.Client,
    method: str,
    path: str,
    operation: dict[str, Any],
    chosen: str | None,
) -> int:
    """Sends a call as its examples have it."""
    query: dict[str, Any] = {}
    for parameter in operation.get("parameters", []):
        if "example" not in parameter:
            continue
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", str(parameter["example"]))
        elif parameter["in"] == "query":
            query[parameter["name"]] = parameter["example"]
    sent: dict[str, Any] = {"params": query}
    content = operation.get("requestBody", {}).get("content", {})
    if "text/plain" in content:
        sent["content"] = content["text/plain"]["example"]
    elif "application/json" in content:
        sent["json"] = content["application/json"]["examples"][chosen]["value"]
    with http.stream(method.upper(), path, **sent) as answer:
        if answer.status_code >= 400:
            answer.read()
        return answer.status_code


def test_from_the_key_to_the_result_by_try_it_out(
    browser: Chrome, keyed_stack: Running, make_key: Callable[..., str], fresh_name: str
) -> None:
    key = make_key(fresh_name)
    with Client(keyed_stack.url, api_key=key) as client:
        Journey(client, *trained())
    browser.get(f"{keyed_stack.url}/docs")
    operations(browser)
    press(browser, "button.authorize")
    paste(browser, first(browser, ".auth-container input"), key)
    press(browser, ".auth-btn-wrapper button.authorize")
    press(browser, ".auth-btn-wrapper .btn-done")
    until(browser, lambda: "sha256:" + "1" * 64 not in str(document(browser)))

    block = tried(browser, "post", "/v1/datasets")
    assert executed(browser, block) == 202
    assert "digits-train" in block.find_element(By.CSS_SELECTOR, ".responses-inner").text
    block = tried(browser, "post", "/v1/jobs")
    assert executed(browser, block) == 202
    with Client(keyed_stack.url, api_key=key) as client:
        job = client.jobs.wait(next(iter(client.jobs.list())).id)
    block = tried(browser, "get", "/v1/jobs/{id}/top")
    field = block.find_element(By.CSS_SELECTOR, "tr[data-param-name='id'] input")
    paste(browser, field, job.id)
    assert executed(browser, block) == 200
    shown = block.find_element(
        By.CSS_SELECTOR, ".live-responses-table tbody .response-col_description"
    )
    with Client(keyed_stack.url, api_key=key) as client:
        best = client.jobs.get(job.id)
    assert best.state == "succeeded"
    assert '"sign": "helpful"' in shown.text
    assert '"test": 3' in shown.text
    screenshot(browser, "docs")
    urls = requests(browser)
    assert [url for url in urls if not url.startswith(f"{keyed_stack.url}/")] == []
    assert all("status of 401" in entry["message"] for entry in browser.get_log("browser"))


def document(browser: Chrome) -> Any:
    return browser.execute_script("return ui.specSelectors.specJson().toJS()")  # type: ignore[no-untyped-call]


def tried(browser: Chrome, method: str, path: str) -> WebElement:
    """An operation, opened, with its fields to be filled in."""
    block = browser.find_element(
        By.XPATH, f"//*[contains(@class,'opblock-{method}')][.//*[@data-path='{path}']]"
    )
    summary = block.find_element(By.CSS_SELECTOR, ".opblock-summary-control")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", summary)  # type: ignore[no-untyped-call]
    summary.click()
    click(browser, block, ".try-out__btn")
    return block


def executed(browser: Chrome, block: WebElement) -> int:
    """Sends what the fields hold; the status of the answer."""
    click(browser, block, ".execute")
    selector = ".live-responses-table tbody .response-col_status"
    status = waiting(browser).until(lambda _: block.find_element(By.CSS_SELECTOR, selector).text)
    return int(status.split()[0])


def operations(browser: Chrome) -> set[str]:
    """The operations that the page shows, as `GET /path`, once there are any."""
    found = waiting(browser).until(
        lambda driver: driver.find_elements(By.CSS_SELECTOR, ".opblock-summary")
    )
    return {
        f"{part(block, '.opblock-summary-method').text} "
        f"{part(block, '.opblock-summary-path').get_attribute('data-path')}"
        for block in found
    }


def part(element: WebElement, selector: str) -> WebElement:
    """The one element inside."""
    return element.find_element(By.CSS_SELECTOR, selector)


def click(browser: Chrome, block: WebElement, selector: str) -> None:
    """Click on an element inside once it can be."""
    waiting(browser).until(lambda _: block.find_elements(By.CSS_SELECTOR, selector))
    button = part(block, selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)  # type: ignore[no-untyped-call]
    waiting(browser).until(element_to_be_clickable(button)).click()
