"""How the explorer looks and is used: small and large, light and dark, by keyboard and ear, with what users write."""

from __future__ import annotations

from typing import Any

import httpx2
import numpy as np
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys

from tests.browser.kinds import NAUGHTY, TOKENS, Rows
from tests.browser.page import all_of, assert_calm, first, prefer, press, texts, until
from tests.browser.subject import Subject

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def test_it_is_used_by_the_keyboard_alone(browser: Chrome, digits: Subject) -> None:
    browser.get(f"{digits.url}/#/jobs?search={digits.jobs['direct']}")
    first(browser, "tr[data-job]")
    active = browser.switch_to.active_element
    active.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to content"
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.switch_to.active_element.get_attribute("id") == "main"
    for _ in range(80):  # the list's filters have some stops
        browser.switch_to.active_element.send_keys(Keys.TAB)
        focused = browser.switch_to.active_element
        assert focused.value_of_css_property("outline-style") != "none", focused.text
        if digits.jobs["direct"] in (focused.get_attribute("href") or ""):
            break
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    first(browser, ".focus-example h2", "Test row 0")
    first(browser, ".listbox").send_keys(Keys.END)
    first(browser, ".focus-example h2", "Test row 39")
    first(browser, ".listbox").send_keys(Keys.ARROW_UP)
    first(browser, ".focus-example h2", "Test row 38")
    assert texts(browser, ".listbox li[aria-selected='true'] .row-number") == ["row 38"]


def test_the_switch_overrides_the_system_and_is_remembered(
    browser: Chrome, digits: Subject
) -> None:
    prefer(browser, "dark")
    browser.get(digits.url)
    button = first(browser, "#theme-button")
    assert "Auto" in button.text
    button.click()
    assert "Light" in button.text
    until(browser, lambda: is_light(browser))
    browser.refresh()
    until(browser, lambda: is_light(browser))
    press(browser, "#theme-button")
    until(browser, lambda: not is_light(browser))


def is_light(browser: Chrome) -> bool:
    colour = all_of(browser, "body")[0].value_of_css_property("background-color")
    return int(colour.split("(")[1].split(",")[0]) > 128


def test_texts_are_words_and_what_users_write_stays_text(browser: Chrome, sentences: Rows) -> None:
    browser.get(sentences.page(sentences.influences, "test", 1))
    first(browser, ".focus-example h2", "Test row 1")
    expected = " ".join(sentences.names[token] for token in sentences.test[1])
    assert texts(browser, ".focus-example .preview.text") == [expected]
    assert NAUGHTY in {*texts(browser, ".target"), *texts(browser, ".prediction")}
    assert all_of(browser, "main img") == []
    assert_calm(browser, sentences.url)


def test_words_lie_on_the_colour_of_their_influence(browser: Chrome, sentences: Rows) -> None:
    browser.get(sentences.page(sentences.perturbation, "perturbation", 1, 7))
    first(browser, ".strip .token")
    assert texts(browser, ".strip .token") == [sentences.names[t] for t in sentences.train[7]]
    values = influences(sentences, 1, 7).sum(axis=1)  # of a position's numbers
    signs = [each.get_attribute("class") for each in all_of(browser, ".strip .token")]
    assert signs == [f"token {'harmful' if value < 0 else 'helpful'}" for value in values]
    told = [words.rsplit(" ", 1) for words in texts(browser, ".diverging-bars th")]
    places = [int(place.strip("()")) for _, place in told]
    assert sorted(places) == list(range(TOKENS))
    assert np.all(np.diff(np.abs(values)[places]) <= 1e-9)  # the same word twice is worth as much
    assert [word for word, _ in told] == [sentences.names[sentences.train[7][i]] for i in places]
    assert_calm(browser, sentences.url)


def influences(rows: Rows, test: int, train: int) -> np.ndarray[Any, Any]:
    """Of each feature of a training row on a test row, as the API says."""
    path = f"{rows.url}/v1/jobs/{rows.perturbation}/influences?test={test}&train={train}"
    answer = httpx2.get(path, trust_env=False).raise_for_status()
    return np.asarray(answer.json()["values"])[0][0]


def written(text: str) -> float:
    """A number as the page writes it."""
    return float(text.replace("−", "-").replace("+", ""))


def test_features_of_a_table_are_bars_beside_both_rows(browser: Chrome, tumours: Rows) -> None:
    browser.get(tumours.page(tumours.perturbation, "perturbation", 1, 7))
    first(browser, ".diverging-bars")
    values = influences(tumours, 1, 7)
    order = np.argsort(-np.abs(values))
    assert texts(browser, ".diverging-bars tbody th") == [tumours.names[i] for i in order]
    cells = [written(each) for each in texts(browser, ".diverging-bars tbody .number")]
    expected = np.stack([values, tumours.train[7], tumours.test[1]], axis=1)[order]
    assert cells == pytest.approx(expected.ravel().tolist(), rel=6e-3)
    assert_calm(browser, tumours.url)


def test_a_row_of_a_table_is_what_sets_it_apart_from_the_test_row(
    browser: Chrome, tumours: Rows
) -> None:
    browser.get(tumours.page(tumours.influences, "test", 1))
    card = first(browser, ".influencers.harmful .card")
    row = tumours.train[int(card.get_attribute("data-row") or -1)]
    sample = tumours.train[np.arange(64) * 120 // 64]  # the rows whose spread the page takes
    apart = np.argsort(-np.abs(row - tumours.test[1]) / sample.std(axis=0))[:3]
    assert texts(card, ".features dt") == [tumours.names[i] for i in apart]
    shown = [written(each.split()[0]) for each in texts(card, ".features dd")]
    assert shown == pytest.approx(row[apart].tolist(), rel=6e-3)
    beside = [written(each.split()[1]) for each in texts(card, ".features dd small")]
    assert beside == pytest.approx(tumours.test[1][apart].tolist(), rel=6e-3)

    assert texts(browser, ".focus-example .features.all dt") == [""] * 30  # folded
    press(browser, ".focus-example summary", "All 30 features")
    assert texts(browser, ".focus-example .features.all dt") == tumours.names
    assert_calm(browser, tumours.url)


def test_a_service_that_is_gone_is_said_and_found_again(browser: Chrome, digits: Subject) -> None:
    browser.get(digits.url)
    first(browser, "tr[data-job]")
    network = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": True, **network})
    first(browser, "main .note", "does not answer")
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": False, **network})
    until(browser, lambda: not all_of(browser, "main .note"))


def test_an_address_of_nothing_leads_back(browser: Chrome, digits: Subject) -> None:
    browser.get(f"{digits.url}/#/jobs/job_00000000000000000000000000")
    first(browser, ".empty h1", "Not found")
    browser.get(f"{digits.url}/#/nowhere")
    first(browser, ".empty h1", "No such page")
    press(browser, ".empty a")
    first(browser, "tr[data-job]")
