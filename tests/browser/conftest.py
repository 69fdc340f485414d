"""A real Chromium without a window, one for all tests of a run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from service.local.background import Running
from tests.browser.kinds import Rows, measured, written
from tests.browser.subject import Subject, computed

FLAGS = [
    "--headless=new",
    "--no-sandbox",  # its sandbox cannot be had by root in a container
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # as without internet
    "--window-size=1280,1600",
]
PATIENCE = 120  # seconds for a page to load, and until it no longer moves


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """The process; tests take `browser`."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        words = (
            "no Chromium with its driver here (Debian: apt-get install chromium chromium-driver)"
        )
        if os.environ.get("UPWEIGHT_REQUIRE_BROWSER") == "1":
            pytest.fail(words)
        pytest.skip(words)
    options = ChromeOptions()
    options.binary_location = program
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    # With the driver's path given, selenium looks for none on the internet.
    chrome = Chrome(options=options, service=Service(driver))
    executor: Any = chrome.command_executor
    executor.client_config.timeout = 3 * PATIENCE  # a click on a full machine has taken two minutes
    try:
        chrome.set_page_load_timeout(PATIENCE)
        chrome.set_script_timeout(PATIENCE)
        yield chrome
    finally:
        chrome.quit()


@pytest.fixture
def browser(chromium: Chrome) -> Chrome:
    """A new tab of it, as if never used, with a log of every request and every complaint of this test."""
    used = chromium.current_window_handle
    chromium.switch_to.new_window("tab")
    fresh = chromium.current_window_handle
    chromium.switch_to.window(used)
    # What is kept for addresses, whatever the port; what was emulated ends with the tab.
    for command in ("Network.clearBrowserCache", "Network.clearBrowserCookies"):
        chromium.execute_cdp_cmd(command, {})
    if chromium.current_url.startswith("http"):
        chromium.execute_script("localStorage.clear(); sessionStorage.clear()")  # type: ignore[no-untyped-call]
    chromium.close()
    chromium.switch_to.window(fresh)
    for log in ("performance", "browser"):
        chromium.get_log(log)  # type: ignore[no-untyped-call]
    return chromium


@pytest.fixture(scope="session")
def digits(stack: Running) -> Subject:
    """The demo's digits, with a job for each view of the explorer."""
    return computed(stack.url)


@pytest.fixture(scope="session")
def tumours(stack: Running) -> Rows:
    """Rows of named measurements, with jobs about them."""
    return measured(stack.url)


@pytest.fixture(scope="session")
def sentences(stack: Running) -> Rows:
    """Rows of words, with jobs about them."""
    return written(stack.url)
