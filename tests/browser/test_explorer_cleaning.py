"""Doubtful labels decided from the keyboard, and the dataset that comes of it, in a real browser."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from tests.browser.layout import unreadable
from tests.browser.page import all_of, assert_calm, first, press, screenshot, until
from tests.browser.subject import Subject

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def type_keys(browser: Chrome, *keys: str) -> None:
    for key in keys:
        ActionChains(browser).send_keys(key).perform()


def decisions(browser: Chrome) -> list[str]:
    return [
        row.get_attribute("data-decision") or "" for row in all_of(browser, ".cleaning tbody tr")
    ]


def decided(browser: Chrome, *expected: str) -> None:
    until(browser, lambda: decisions(browser)[: len(expected)] == list(expected))


def test_labels_are_decided_from_the_keyboard_and_make_a_dataset(
    browser: Chrome, digits: Subject, fresh_name: str
) -> None:
    items = digits.get("self", "/suspects", limit=40)["items"]
    browser.get(digits.page("self", "cleaning"))
    first(browser, ".cleaning tbody tr")
    rows = all_of(browser, ".cleaning tbody tr")
    assert [int(row.get_attribute("data-row") or -1) for row in rows] == [
        each["row"] for each in items
    ]
    rows[0].click()
    type_keys(browser, "d", "r", "w")
    decided(browser, "drop", "right", "wrong", "")
    type_keys(browser, "l")
    Select(first(browser, "dialog select")).select_by_visible_text("7")
    press(browser, "dialog .primary")
    decided(browser, "drop", "right", "wrong", "relabel", "")
    type_keys(browser, "d", "u", "u")  # a decision is taken back, and the one before
    decided(browser, "drop", "right", "wrong", "", "")
    assert first(browser, ".cleaning tr[aria-current]").get_attribute("data-row") == str(
        items[3]["row"]
    )
    type_keys(browser, Keys.ARROW_DOWN, "w")
    decided(browser, "drop", "right", "wrong", "", "wrong")
    screenshot(browser, "cleaning")

    browser.refresh()  # nothing is lost
    first(browser, ".cleaning tbody tr")
    decided(browser, "drop", "right", "wrong", "", "wrong")
    assert "3 rows to drop · 0 labels to replace · 1 right" in first(browser, ".tally").text
    Select(first(browser, ".outcome select")).select_by_value("predicted")
    first(browser, ".tally", "1 row to drop · 2 labels to replace · 1 right")
    name = first(browser, ".outcome [name='name']")
    name.clear()
    name.send_keys(fresh_name)
    press(browser, ".outcome button.primary", "Make dataset")
    first(browser, ".outcome .note", f"{fresh_name}@1 has 1,399 rows")
    made = record(digits, fresh_name)
    assert made["derived_from"]["dataset"] == digits.records["train"]
    labels = httpx2.get(
        f"{digits.url}/v1/datasets/{fresh_name}/rows",
        params={"rows": ":", "column": "y"},
        trust_env=False,
    ).json()["columns"]["y"]
    expected = digits.digits.y_train.copy()
    for item in (items[2], items[4]):
        expected[item["row"]] = item["predicted"]
    assert labels == [y for row, y in enumerate(expected.tolist()) if row != items[0]["row"]]
    compared_after_retraining(browser, digits)
    assert_calm(browser, digits.url)


def compared_after_retraining(browser: Chrome, digits: Subject) -> None:
    """The model before and after, as the API has them."""
    test = first(browser, ".retraining input")
    test.clear()
    test.send_keys("digits-test")
    press(browser, ".retraining .primary", "Retrain on it")
    first(browser, ".tabs a", "Before and after")
    press(browser, ".tabs a", "Before and after")
    first(browser, ".compared tbody tr")
    job = browser.current_url.partition("/jobs/")[2].partition("/")[0]
    model = httpx2.get(f"{digits.url}/v1/jobs/{job}", trust_env=False).json()["model"]["id"]
    training = httpx2.get(f"{digits.url}/v1/models/{model}", trust_env=False).json()["training"]
    for shown, name in zip(
        all_of(browser, ".compared:not(.by-class) tbody tr"), ("accuracy", "loss"), strict=True
    ):
        cells = [cell.text for cell in all_of(shown, "td")]
        written = [training[side][name] for side in ("parent_metrics", "metrics")]
        scale = 100 if name == "accuracy" else 1
        assert [float(cell.removesuffix(" %")) for cell in cells[:2]] == pytest.approx(
            [scale * each for each in written], abs=0.51 if name == "accuracy" else 1e-3
        )
    assert len(all_of(browser, ".compared.by-class tbody tr")) == 2 * 10  # accuracy and loss
    assert unreadable(browser, "comparison") == []


def record(digits: Subject, name: str) -> Any:
    return httpx2.get(f"{digits.url}/v1/datasets/{name}", trust_env=False).json()
