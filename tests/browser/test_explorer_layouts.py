"""Every view, at three widths, light and dark: all text can be read, and every control has a name."""

from __future__ import annotations

from typing import Any

import pytest
from selenium.webdriver import Chrome

from tests.browser.kinds import Rows
from tests.browser.layout import settled, trouble, unreadable
from tests.browser.page import assert_calm, first, prefer
from tests.browser.subject import Subject

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def views(digits: Subject, tumours: Rows, sentences: Rows) -> dict[str, tuple[str, str]]:
    """Addresses, and what is there once the view is."""
    found = {
        "jobs": (f"{digits.url}/#/jobs", "tr[data-job]"),
        "new": (f"{digits.url}/#/new", "[data-field='model']"),
        "models": (f"{digits.url}/#/models", "tr[data-record]"),
        "datasets": (f"{digits.url}/#/datasets", "tr[data-record]"),
        "model": (f"{digits.url}/#/models/digits-mlp", ".facts-list"),
        "images-rows": (f"{digits.url}/#/datasets/digits-train", ".gallery li"),
        "tables-rows": (f"{digits.url}/#/datasets/tumours-train", ".gallery li"),
        "texts-rows": (f"{digits.url}/#/datasets/sentences-train", ".gallery li"),
        "compare": (
            f"{digits.url}/#/compare/{digits.jobs['direct']}/{digits.jobs['self']}",
            ".moved tbody tr",
        ),
        "overview": (digits.page("direct", "overview"), ".code"),
        "inversion": (digits.page("arnoldi", "inversion"), ".plot circle"),
        "images-test": (digits.page("direct", "test"), ".influencers .card"),
        "images-training": (digits.page("direct", "training"), ".ranking tbody tr"),
        "images-cleaning": (digits.page("self", "cleaning"), ".cleaning tbody tr"),
        "images-perturbation": (digits.page("perturbation", "perturbation"), ".heat canvas"),
    }
    for name, rows in (("tables", tumours), ("texts", sentences)):
        job, perturbed = rows.influences, rows.perturbation
        found |= {
            f"{name}-test": (rows.page(job, "test", 1), ".influencers .card"),
            f"{name}-training": (rows.page(job, "training"), ".ranking tbody tr"),
            f"{name}-cleaning": (rows.page(job, "cleaning"), ".cleaning tbody tr"),
            f"{name}-perturbation": (rows.page(perturbed, "perturbation"), ".diverging-bars tbody"),
        }
    return found


def test_all_text_can_be_read_and_every_control_has_a_name(
    browser: Chrome, digits: Subject, tumours: Rows, sentences: Rows
) -> None:
    found: list[Any] = []
    for name, (address, sign) in views(digits, tumours, sentences).items():
        browser.get(address)
        first(browser, sign)
        found += unreadable(browser, name)
    assert found == []
    assert_calm(browser, digits.url)


@pytest.mark.parametrize(
    ("style", "said"),
    [
        ("position: absolute; left: 0; top: 0", "overlap"),
        ("position: absolute; left: -20px", "outside"),
        ("display: block; width: 9px; overflow: hidden; white-space: nowrap", "cut"),
        ("color: #999", "contrast"),
        ("position: absolute; left: 2000px", "scroll"),
    ],
)
def test_what_is_wrong_is_found(browser: Chrome, digits: Subject, style: str, said: str) -> None:
    browser.get(f"{digits.url}/#/nowhere")
    first(browser, ".empty h1")
    prefer(browser, "light")
    settled(browser)
    assert trouble(browser) == []
    script = (
        "for (const words of ['some words', 'some others']) { const added = document.createElement('p');"
        "added.style.cssText = arguments[0]; added.textContent = words; document.querySelector('main').append(added); }"
    )
    browser.execute_script(script, style)  # type: ignore[no-untyped-call]
    assert said in {kind for kind, *_ in trouble(browser)}
