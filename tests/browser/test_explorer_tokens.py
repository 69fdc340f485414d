"""Scores by token in the explorer: labels as words, coloured by their part, and what users write stays text."""

from __future__ import annotations

import pytest
from selenium.webdriver import Chrome

from service.local.background import Running
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
