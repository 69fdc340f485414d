"""What a structured curvature keeps of each layer, in the browser."""

from __future__ import annotations

import pytest
from selenium.webdriver import Chrome

from tests.browser.page import all_of, assert_calm, first, screenshot
from tests.browser.subject import Subject
from upweight import Client

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def test_each_layer_says_what_is_kept_of_it(browser: Chrome, digits: Subject) -> None:
    with Client(digits.url) as client:
        result = client.compute_influences(
            *(digits.records[each] for each in ("model", "train", "test")),
            test_rows="0:12", inversion_method="ekfac", hessian_regularization=0.01,
        )  # fmt: skip
        structure = result.info.summary["structure"]
    browser.get(f"{digits.url}/#/jobs/{result.id}/inversion")
    section = first(browser, "section.coverage")
    assert "100 % of the parameters: Kronecker factors" in section.text
    assert f"Labels were drawn with seed {structure['seed']}" in section.text
    lines = [each.text for each in all_of(browser, "section.coverage tbody th")]
    assert lines == [each["layer"] for each in structure["layers"]]
    assert "[object" not in first(browser, "main").text
    screenshot(browser, "inversion-ekfac")
    assert_calm(browser, digits.url)
