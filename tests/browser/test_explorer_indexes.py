"""Indexes in the explorer: their list, and a page that is asked about a row of a dataset, or one that is pasted."""

from __future__ import annotations

import json

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from service.local.background import Running
from tests.browser.layout import unreadable
from tests.browser.page import all_of, assert_calm, first, until
from tests.browser.subject import Subject
from tests.engine import decoder
from tests.journeys.test_indexes_of_texts import tokenizer
from upweight import Client

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def test_an_index_says_why_of_a_stored_and_of_a_pasted_row(
    browser: Chrome, digits: Subject
) -> None:
    with Client(digits.url) as client:
        (exact,) = client.indexes.get(digits.jobs["index"]).query(
            test={"dataset": digits.records["test"], "rows": "3"}, k=8
        )
    browser.get(f"{digits.url}/#/indexes")
    assert first(browser, "table.indexes tbody th", "why")
    address = f"{digits.page('index', 'ask')}?dataset={digits.records['test']}&row=3"
    browser.get(address)
    wanted = [str(each.row) for each in exact.helpful if each.influence > 0]
    until(browser, lambda: _rows(browser) == wanted)
    _note_stages(browser)

    row = {"x": digits.digits.x_test[3:4].tolist(), "y": digits.digits.y_test[3:4].tolist()}
    browser.get(digits.page("index", "ask"))
    area = first(browser, ".ask-pasted textarea")
    browser.execute_script("arguments[0].value = arguments[1]", area, json.dumps(row))
    browser.execute_script("document.querySelector('.chosen').replaceChildren()")
    first(browser, ".ask-pasted button").click()
    until(browser, lambda: _rows(browser) == wanted)
    until(browser, lambda: not browser.find_element(By.CSS_SELECTOR, ".ask .stage").text)
    told = _stages(browser)
    assert "Taking the row's gradient" in told
    assert "Scoring candidates by their whole gradients" in told
    assert_calm(browser, digits.url)

    browser.execute_script('arguments[0].value = \'{"x": [[1]], "y": [3]}\'', area)
    first(browser, ".ask-pasted button").click()
    until(browser, lambda: "it must be (64,)" in first(browser, ".chosen").text)
    browser.get_log("browser")  # where browsers note an answer of 422


def test_an_index_of_texts_says_why_of_a_text(browser: Chrome, stack: Running) -> None:
    """Whose tokens its dataset's tokenizer makes; a class would be asked for beside it."""
    tokens, targets = decoder.texts(12)
    name = "explained-texts"
    with Client(stack.url) as client:
        loss = {"name": "cross_entropy", "class_axis": -1}
        client.models.register(name, decoder.decoder(), example=tokens[:2], loss=loss)
        client.datasets.register(name, x=tokens, y=targets, tokenizer=tokenizer())
        index = client.indexes.create(
            name, name, name, curvature="diagonal", hessian_regularization=0.1
        ).wait()
        (exact,) = index.query(text="the cat sat", k=8)
    browser.get(f"{stack.url}/#/jobs/{index.id}/ask")
    first(browser, ".ask-text textarea").send_keys("the cat sat")
    first(browser, ".ask-text button").click()
    wanted = [str(each.row) for each in exact.helpful if each.influence > 0]
    until(browser, lambda: _rows(browser) == wanted)
    assert unreadable(browser, "ask-text") == []
    assert_calm(browser, stack.url)
    first(browser, ".ask-text textarea").send_keys(" the cat sat")
    first(browser, ".ask-text button").click()
    until(browser, lambda: "rows have up to 5" in first(browser, ".chosen").text)
    browser.get_log("browser")  # where browsers note an answer of 422
    with Client(
        stack.url
    ) as client:  # the page of the API asks the newest index with a row of digits
        client.jobs.delete(index.id)


def _note_stages(browser: Chrome) -> None:
    """From now on, each that the page shows while one waits."""
    browser.execute_script(
        "const stage = document.querySelector('.ask .stage');"
        "window.stages = [];"
        "new MutationObserver((seen) => { for (const { addedNodes } of seen)"
        " for (const node of addedNodes) window.stages.push(node.textContent); })"
        ".observe(stage, {childList: true});"
    )


def _stages(browser: Chrome) -> list[str]:
    found: list[str] = browser.execute_script("return window.stages")
    return found


def _rows(browser: Chrome) -> list[str | None]:
    cards = all_of(browser, ".influencers.helpful li.card") if _answered(browser) else []
    return [each.get_attribute("data-row") for each in cards]


def _answered(browser: Chrome) -> bool:
    return bool(browser.find_elements(By.CSS_SELECTOR, ".influencers.helpful li.card"))
