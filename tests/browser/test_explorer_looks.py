"""How the explorer looks and is used: small and large, light and dark, by keyboard and ear, with what users write."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys
from torch import nn

from service.local.background import Running
from tests.browser.page import (
    all_of,
    assert_calm,
    first,
    prefer,
    press,
    resize,
    screenshot,
    texts,
    until,
)
from tests.browser.subject import Subject
from upweight import Client

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

NAUGHTY = "<img src=x onerror=alert(1)>"
NAMED = {"button", "link", "combobox", "textbox", "checkbox", "listbox", "option", "image", "img"}


def views(digits: Subject) -> dict[str, tuple[str, str]]:
    """Addresses, and what is there once the view is."""
    return {
        "jobs": (f"{digits.url}/#/jobs", "tr[data-job]"),
        "new": (f"{digits.url}/#/new", "[data-field='rtol']"),
        "test": (digits.page("direct", "test"), ".influencers .card"),
        "training": (digits.page("direct", "training"), ".ranking tbody tr"),
        "cleaning": (digits.page("self", "cleaning"), ".cleaning tbody tr"),
        "perturbation": (digits.page("perturbation", "perturbation"), ".heat canvas"),
        "inversion": (digits.page("arnoldi", "inversion"), ".plot circle"),
        "overview": (digits.page("direct", "overview"), ".code"),
    }


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_every_view_fits_the_window_and_every_control_has_a_name(
    browser: Chrome, digits: Subject, width: int, scheme: str
) -> None:
    resize(browser, width)
    prefer(browser, scheme)
    for name, (address, sign) in views(digits).items():
        browser.get(address)
        first(browser, sign)
        scroll, inner = browser.execute_script(  # type: ignore[no-untyped-call]
            "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert scroll <= inner, name
        assert nameless(browser) == [], name
        screenshot(browser, f"{name}-{width}-{scheme}")
    background = all_of(browser, "body")[0].value_of_css_property("background-color")
    brightness = sum(int(part) for part in background.split("(")[1].split(",")[:3])
    assert (brightness < 3 * 128) == (scheme == "dark")
    assert_calm(browser, digits.url)


def nameless(browser: Chrome) -> list[Any]:
    """What a screen reader would announce as a control or picture without a name."""
    browser.execute_cdp_cmd("Accessibility.enable", {})
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    return [
        node
        for node in nodes
        if not node.get("ignored")
        and node.get("role", {}).get("value") in NAMED
        and not node.get("name", {}).get("value", "").strip()
    ]


def test_it_is_used_by_the_keyboard_alone(browser: Chrome, digits: Subject) -> None:
    browser.get(digits.url)
    first(browser, "tr[data-job]")
    active = browser.switch_to.active_element
    active.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to content"
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.switch_to.active_element.get_attribute("id") == "main"
    for _ in range(80):  # each job that is listed above it has some stops
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


class Bag(nn.Module):
    """Classifies token numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.embedding(tokens)).mean(1))


def test_texts_are_words_and_what_users_write_stays_text(
    browser: Chrome, stack: Running, fresh_name: str
) -> None:
    words = ["the", NAUGHTY, "cat", "sat", "on", "mat"]
    tokens = torch.arange(60).reshape(12, 5) % 6
    with Client(stack.url) as client:
        vocabulary = client.blobs.put(json.dumps(words).encode()).digest
        preview = {"kind": "text", "column": "x", "vocabulary": vocabulary}
        torch.manual_seed(1)
        model = client.models.register(
            fresh_name, Bag().eval(), example=tokens[:2], loss="cross_entropy"
        )
        data = client.datasets.register(
            fresh_name, x=tokens, y=tokens[:, 0] % 2, preview=preview, class_names=[NAUGHTY, "fine"]
        )
        result = client.compute_influences(
            model,
            data,
            data,
            inversion_method="direct",
            hessian_regularization=1.0,
            test_rows="0:4",
        )
    browser.get(f"{stack.url}/#/jobs/{result.id}/test/1")
    first(browser, ".focus-example h2", "Test row 1")
    expected = " ".join(words[int(token)] for token in tokens[1])
    assert texts(browser, ".focus-example .preview.text") == [expected]
    assert NAUGHTY in {*texts(browser, ".target"), *texts(browser, ".prediction")}
    assert all_of(browser, "main img") == []
    screenshot(browser, "texts")
    assert_calm(browser, stack.url)


def test_tables_are_shown_as_tables_and_their_features_as_bars(
    browser: Chrome, stack: Running, fresh_name: str
) -> None:
    generator = np.random.default_rng(5)
    x = generator.normal(size=(40, 4)).astype("f4")
    y = (x @ np.array([[1.0], [-2.0], [0.5], [0.0]], "f4")).astype("f4")
    names = ["age", "height", "weight", "shoe size"]
    with Client(stack.url) as client:
        torch.manual_seed(2)
        model = client.models.register(
            fresh_name, nn.Linear(4, 1), example=torch.from_numpy(x[:2]), loss="mse"
        )
        preview = {"kind": "table", "column": "x", "names": names}
        data = client.datasets.register(fresh_name, x=x, y=y, preview=preview)
        result = client.compute_influences(
            model, data, data, inversion_method="direct", hessian_regularization=0.1,
            test_rows="0:3", train_rows="0:20", influence_type="perturbation",
        )  # fmt: skip
    browser.get(f"{stack.url}/#/jobs/{result.id}/perturbation/1/7")
    first(browser, ".diverging-bars")
    assert [row.split()[0] for row in texts(browser, ".pair table")[1].splitlines()] == [
        "age", "height", "weight", "shoe",
    ]  # fmt: skip
    answer = httpx2.get(
        f"{stack.url}/v1/jobs/{result.id}/influences?test=1&train=7", trust_env=False
    )
    values = np.asarray(answer.json()["values"][0][0])
    order = np.argsort(-np.abs(values))
    assert texts(browser, ".diverging-bars th") == [names[i] for i in order]
    shown = [
        float(each.replace("−", "-").replace("+", ""))
        for each in texts(browser, ".diverging-bars .number")
    ]
    assert shown == pytest.approx(values[order].tolist(), rel=6e-3)
    screenshot(browser, "table")
    assert_calm(browser, stack.url)


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
