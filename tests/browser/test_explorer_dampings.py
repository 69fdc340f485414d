"""Several λ's of one job in the browser: one of them is looked at, and all are compared."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.support.select import Select

from tests.browser.layout import unreadable
from tests.browser.page import all_of, assert_calm, first, texts, until
from tests.browser.subject import Subject
from upweight import Client, InfluenceResult

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
DAMPINGS = [0.05, 0.5, 5.0]


@pytest.fixture(scope="module")
def several(digits: Subject) -> InfluenceResult:
    """Influences on some digits with three λ's."""
    with Client(digits.url) as client:
        return client.compute_influences(
            *(digits.records[each] for each in ("model", "train", "test")),
            test_rows="0:12", inversion_method="direct", hessian_regularization=DAMPINGS,
            keep={"matrix": True, "top": 10, "mean": True},
        )  # fmt: skip


def _same(shown: Callable[[], list[str | None]], expected: list[str]) -> bool:
    return shown() == expected


def test_rows_are_ranked_by_the_lambda_in_view(
    browser: Chrome, digits: Subject, several: InfluenceResult
) -> None:
    browser.get(f"{digits.url}/#/jobs/{several.id}/training")
    rows = ".ranking tbody tr[data-row]"
    for layer, damping in enumerate(DAMPINGS):
        Select(first(browser, "select[aria-label='λ']")).select_by_value(str(layer))
        with Client(digits.url) as client:
            result = client.jobs.result(several.id).at(damping=damping)
            ranked = result.top(k=5, sign="harmful")  # type: ignore[attr-defined]
        expected = [str(item.row) for item in ranked.items]

        def shown() -> list[str | None]:
            return [each.get_attribute("data-row") for each in all_of(browser, rows)[:5]]

        until(browser, partial(_same, shown, expected))
    assert_calm(browser, digits.url)


def test_lambdas_are_compared_in_a_plot_and_a_table(
    browser: Chrome, digits: Subject, several: InfluenceResult
) -> None:
    browser.get(f"{digits.url}/#/jobs/{several.id}/inversion")
    first(browser, "figure", "Rank correlation between neighbouring λ's")
    assert len(all_of(browser, "figure .chart")) >= 2
    heads = [each for each in texts(browser, "section table.plain tbody th") if each]
    assert heads[:3] == ["0.05", "0.5", "5"]
    assert unreadable(browser, "dampings") == []
    assert_calm(browser, digits.url)


def test_the_form_takes_words_and_lists(browser: Chrome, digits: Subject) -> None:
    browser.get(f"{digits.url}/#/new")
    field = first(browser, "[data-field='hessian_regularization'] input")
    assert field.get_attribute("value") == "auto"  # as the SDK begins
    field.clear()
    field.send_keys("Auto")
    first(browser, "button[type='submit']").click()
    words = first(browser, "[data-field='hessian_regularization'] .field-error", "is no λ")
    assert "'Auto' is no λ; give 0.05" in words.text
