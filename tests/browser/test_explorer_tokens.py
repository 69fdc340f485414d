"""Scores by token in the explorer: labels as words, coloured by their part, and what users write stays text."""

from __future__ import annotations

import pytest
from selenium.webdriver import Chrome

from service.local.background import Running
from tests.browser.layout import unreadable
from tests.browser.page import all_of, assert_calm, first, texts
from tests.engine import decoder
from upweight import Client

WORDS = ["", "the", "<b>cat</b>", "sat", "on", "a", "mat"]
pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def test_labels_lie_on_the_colour_of_their_part(browser: Chrome, stack: Running) -> None:
    tokens, targets = decoder.texts(6)
    name = "coloured-tokens"
    preview = {"kind": "text", "column": "x", "vocabulary": WORDS}
    with Client(stack.url) as client:
        loss = {"name": "cross_entropy", "class_axis": -1}
        client.models.register(name, decoder.decoder(), example=tokens[:2], loss=loss)
        client.datasets.register(name, x=tokens, y=targets, preview=preview)
        options = {"curvature": "empirical_fisher", "hessian_regularization": 0.2}
        result = client.compute_influences(name, name, name, scores_by="token", **options)
        best = result.top(1, 1, "lowers").items[0]
        parts = result.by_token[1, best.column]
    browser.get(f"{stack.url}/#/jobs/{result.id}/test/1")
    card = f".influencers.helpful .card[data-row='{best.row}'] .strip .token"
    first(browser, card)
    labels = [int(label) for label in targets[best.row] if label >= 0]
    assert texts(browser, card) == [WORDS[label] for label in labels]
    signs = [each.get_attribute("class") for each in all_of(browser, card)]
    assert signs == [
        f"token {'harmful' if part < 0 else 'helpful'}" for part in parts[: len(labels)]
    ]
    assert_calm(browser, stack.url)


def test_rows_that_share_words_stand_beside_the_influences(browser: Chrome, stack: Running) -> None:
    tokens, targets = decoder.texts(30)
    name = "shared-words"
    preview = {"kind": "text", "column": "x", "vocabulary": WORDS}
    with Client(stack.url) as client:
        loss = {"name": "cross_entropy", "class_axis": -1}
        client.models.register(name, decoder.decoder(), example=tokens[:2], loss=loss)
        ids = [f"line-{row}" for row in range(30)]
        client.datasets.register(name, x=tokens, y=targets, preview=preview, ids=ids)
        options = {"curvature": "empirical_fisher", "hessian_regularization": 0.2}
        result = client.compute_influences(
            name, name, name, train_rows="4:30", test_rows="0:4", **options
        )
        items = [item for item in result.bm25(2, 8) if item.score > 0]
        above = {item.row for sign in ("helpful", "harmful") for item in result.top(2, 8, sign)}
    browser.get(f"{stack.url}/#/jobs/{result.id}/test/2")
    first(browser, ".shared-words summary").click()
    first(browser, ".shared-words .card")
    cards = all_of(browser, ".shared-words .card")
    assert [card.get_attribute("data-row") for card in cards] == [str(each.row) for each in items]
    said = texts(browser, ".shared-words .row-number")
    assert said == [
        f"row {each.row} · line-{each.row}{' · listed above, too' * (each.row in above)}"
        for each in items
    ]
    scores = [
        float(each.get_attribute("title") or 0) for each in all_of(browser, ".shared-words .score")
    ]
    assert scores == [each.score for each in items]
    widths = browser.execute_script(
        "return [...document.querySelectorAll('.shared-words .score-bar span')].map((each) => each.style.width)"
    )
    assert widths[0] == "100%"
    assert unreadable(browser, "shared-words") == []
    assert_calm(browser, stack.url)
