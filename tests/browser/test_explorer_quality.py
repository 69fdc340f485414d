"""The page of a quality job: its table, dots with intervals, and what the judged result's own page says of it."""

from __future__ import annotations

import pytest
from selenium.webdriver import Chrome

from tests.browser.layout import unreadable
from tests.browser.page import all_of, assert_calm, first, texts
from tests.browser.subject import Subject
from upweight import Client

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def test_a_quality_jobs_table_and_intervals_are_shown(browser: Chrome, digits: Subject) -> None:
    recipe = {"optimizer": "sgd", "lr": 0.05, "batch_size": 256, "epochs": 3, "start": "warm"}
    with Client(digits.url) as client:
        table = client.evaluate(
            digits.jobs["direct"], ["lds", "tail_patch"], subsets=6, repeats=2, recipe=recipe
        )
    browser.get(f"{digits.url}/#/jobs/{table.job}")
    first(browser, "figure.plot", "The best is")
    rows = all_of(browser, "table.plain tbody tr")
    assert len(rows) == len(table.rows)
    assert "2. gradient product (baseline)" in texts(browser, "table.plain tbody th")
    main = first(browser, "main").text
    assert "agree at" in main
    assert "[object" not in main
    assert "undefined" not in main
    assert unreadable(browser, "quality") == []
    browser.get(digits.page("direct", "inversion"))
    first(browser, ".trust")
    told = texts(browser, ".trust")
    assert any("Does it predict retraining?" in each and "lds" in each for each in told)
    assert_calm(browser, digits.url)
