"""The API's pages in a real browser."""

from __future__ import annotations

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import element_to_be_clickable

from service.local.background import Running
from tests.browser.page import requests, waiting

pytestmark = pytest.mark.browser


def test_every_operation_is_shown_and_no_request_leaves_the_machine(
    browser: Chrome, stack: Running
) -> None:
    browser.get(f"{stack.url}/docs")
    shown = operations(browser)

    assert {"POST /v1/jobs", "POST /v1/models", "PUT /v1/blobs/{digest}", "GET /readyz"} <= shown
    assert browser.get_log("browser") == []  # nothing was missing, nothing broke the policy
    assert_local(browser, stack.url)


def test_try_it_out_sends_the_request_and_shows_the_answer(browser: Chrome, stack: Running) -> None:
    browser.get(f"{stack.url}/docs")
    operations(browser)
    block = browser.find_element(
        By.XPATH, "//*[contains(@class,'opblock-get')][.//*[@data-path='/healthz']]"
    )
    block.find_element(By.CSS_SELECTOR, ".opblock-summary-control").click()
    click(browser, block, ".try-out__btn")
    click(browser, block, ".execute")
    status = waiting(browser).until(
        lambda _: block.find_element(
            By.CSS_SELECTOR, ".live-responses-table tbody .response-col_status"
        )
    )

    assert status.text.split()[0] == "200"
    assert f"{stack.url}/healthz" in block.text
    assert browser.get_log("browser") == []
    assert f"{stack.url}/healthz" in requests(browser)


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


def assert_local(browser: Chrome, origin: str) -> None:
    """Every request went to us, and there were some."""
    urls = requests(browser)
    assert {f"{origin}/docs", f"{origin}/openapi.json"} <= set(urls)
    assert [url for url in urls if not url.startswith(f"{origin}/")] == []


def part(element: WebElement, selector: str) -> WebElement:
    """The one element inside."""
    return element.find_element(By.CSS_SELECTOR, selector)


def click(browser: Chrome, block: WebElement, selector: str) -> None:
    """Click on an element inside once it can be."""
    waiting(browser).until(lambda _: block.find_elements(By.CSS_SELECTOR, selector))
    waiting(browser).until(element_to_be_clickable(part(block, selector))).click()
