"""What tests of pages share: patience, the browser's log of requests and complaints, screenshots."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

PATIENCE = 90  # seconds
LOOK_SECONDS = 0.05  # from one look to the next
INSIDE = {"chrome", "data", "blob", "about"}  # schemes that name no machine
SHOTS = os.environ.get("UPWEIGHT_SCREENSHOTS")  # a folder; without one none are taken
Found = TypeVar("Found")


def waiting(browser: Chrome) -> WebDriverWait[Chrome]:
    """Patience for slow machines."""
    return WebDriverWait(
        browser, PATIENCE, LOOK_SECONDS, ignored_exceptions=[StaleElementReferenceException]
    )


def until(browser: Chrome, found: Callable[[], Found]) -> Found:
    """The first answer that is not empty."""
    answer: Found = waiting(browser).until(lambda _: found())
    return answer


def all_of(browser: Chrome | WebElement, selector: str) -> list[WebElement]:
    """Every element, as there are now."""
    return browser.find_elements(By.CSS_SELECTOR, selector)


def first(browser: Chrome, selector: str, text: str = "") -> WebElement:
    """The first visible element with this text in it, once there is one."""

    def found() -> WebElement | None:
        elements = all_of(browser, selector)
        return next((each for each in elements if each.is_displayed() and text in each.text), None)

    element = until(browser, found)
    assert element is not None
    return element


def press(browser: Chrome, selector: str, text: str = "") -> None:
    """A click on the first of these, found again if the page draws it anew before the click."""

    def clicked() -> bool:
        first(browser, selector, text).click()
        return True

    until(browser, clicked)


def texts(browser: Chrome | WebElement, selector: str) -> list[str]:
    """The text of every element."""
    return [each.text for each in all_of(browser, selector)]


def requests(browser: Chrome) -> list[str]:
    """Every address that the page asked for since the last call."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    urls = [one["request"]["url"] for one in asked]
    return [url for url in urls if urlsplit(url).scheme not in INSIDE]


def assert_calm(browser: Chrome, origin: str) -> None:
    """Nothing was missing, nothing broke the policy, and no request left the machine."""
    assert browser.get_log("browser") == []
    assert [url for url in requests(browser) if not url.startswith(f"{origin}/")] == []


def screenshot(browser: Chrome, name: str) -> None:
    """Saves what is to be seen as `name`.png, where somebody wants to look at it."""
    if SHOTS is not None:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(f"{SHOTS}/{name}.png")


def paste(browser: Chrome, into: WebElement, text: str) -> None:
    """Puts text into a field all at once: a page that draws itself anew for each key takes long for many."""
    into.click()
    browser.execute_script("arguments[0].select()", into)  # type: ignore[no-untyped-call]
    browser.execute_cdp_cmd("Input.insertText", {"text": text})


def resize(browser: Chrome, width: int, height: int = 1000) -> None:
    """A window of exactly this inner size, phones' too."""
    size: dict[str, Any] = {"width": width, "height": height}
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {**size, "deviceScaleFactor": 1, "mobile": False}
    )


def prefer(browser: Chrome, scheme: str) -> None:
    """The colour scheme of the system, `light` or `dark`; and colours change at once."""
    preferred = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
    features = [{"name": name, "value": value} for name, value in preferred.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
