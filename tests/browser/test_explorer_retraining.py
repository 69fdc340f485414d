"""A retraining's page: its losses, and the model that it gave."""

from __future__ import annotations

import pytest
from selenium.webdriver import Chrome

from tests.browser.layout import unreadable
from tests.browser.page import assert_calm, first
from tests.browser.subject import Subject
from upweight import Client

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def test_a_trainings_losses_are_drawn(browser: Chrome, digits: Subject) -> None:
    recipe = {"optimizer": "sgd", "lr": 0.05, "batch_size": 64, "epochs": 12, "start": "warm"}
    with Client(digits.url) as client:
        model, train, test = (digits.records[each] for each in ("model", "train", "test"))
        request = {
            "kind": "retrain", "model": model, "train": {"dataset": train, "rows": "0:200"},
            "test": {"dataset": test}, "recipe": recipe,
        }  # fmt: skip
        job = client.jobs.wait(client.jobs.create(request))
        assert job.model is not None
    browser.get(f"{digits.url}/#/jobs/{job.id}")
    figure = first(browser, "figure.plot")
    assert "After 12 epochs the loss is" in figure.text
    assert "with an accuracy of" in figure.text
    main = first(browser, "main").text
    assert f"{job.model.name}@{job.model.version}" in main
    assert "Retraining" in main
    assert "[object" not in main
    assert "undefined" not in main
    assert unreadable(browser, "retraining") == []
    browser.get(f"{digits.url}/#/jobs")
    first(browser, f"tr[data-job='{job.id}']", "by sgd")
    assert_calm(browser, digits.url)
