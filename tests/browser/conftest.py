"""A real Chromium without a window."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from service.local.background import Running
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


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    """A Chromium that has never been used, and keeps a log of every request and every complaint."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        words = (
            "no Chromium with its driver here (Debian: apt-get install chromium chromium-driver)"
        )
        if os.environ.get("UPWEIGHT_REQUIRE_BROWSER") == "1":
            pytest.fail(words)
        pytest.skip(words)
    options = ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    # With the driver's path given, selenium looks for none on the internet.
    chrome = Chrome(options=options, service=Service(driver))
    try:
        chrome.set_page_load_timeout(30)
        yield chrome
    finally:
        chrome.quit()


@pytest.fixture(scope="session")
def digits(stack: Running) -> Subject:
    """The demo's digits, with a job for each view of the explorer."""
    return computed(stack.url)
