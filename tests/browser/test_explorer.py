"""The explorer's views in a real browser, on the demo's digits: what they show is what the API says."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from demo.digits import DAMPING
from tests.browser.page import (
    all_of,
    assert_calm,
    first,
    press,
    screenshot,
    texts,
    until,
)
from tests.browser.subject import Subject

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def written(text: str) -> float:
    """A number as the page writes it."""
    return float(text.replace("−", "-").replace("+", "").replace(",", ""))


def shown_ranking(browser: Chrome, sign: str) -> list[tuple[int, float]]:
    cards = all_of(browser, f".influencers.{sign} .card")
    return [(int(card.get_attribute("data-row") or -1), exact(card, ".score")) for card in cards]


def exact(element: Any, selector: str) -> float:
    """The number behind a rounded one."""
    return float(all_of(element, selector)[0].get_attribute("title") or "nan")


def test_a_test_example_with_those_that_helped_and_harmed_it(
    browser: Chrome, digits: Subject
) -> None:
    browser.get(digits.page("direct", "test", 3))
    first(browser, ".focus-example h2", "Test row 3")
    for position in (3, 4):  # by address, then by the keyboard
        if position == 4:
            first(browser, ".listbox").send_keys(Keys.ARROW_DOWN)
            first(browser, ".focus-example h2", "Test row 4")
            assert browser.current_url.endswith("/test/4")
        for sign in ("helpful", "harmful"):
            items = digits.get("direct", "/top", test=position, k=8, sign=sign)["items"]
            expected = [(item["row"], item["influence"]) for item in items]
            assert shown_ranking(browser, sign) == expected
    card = all_of(browser, ".influencers.harmful .card")[0]
    row = int(card.get_attribute("data-row") or -1)
    assert texts(card, ".target") == [str(digits.digits.y_train[row])]
    assert texts(card, ".prediction") == [str(digits.predicted[row])]
    assert pixels(browser, ".influencers.harmful .card canvas") == grey(digits.digits.x_train[row])
    screenshot(browser, "test-examples")
    assert_calm(browser, digits.url)


def pixels(browser: Chrome, selector: str) -> list[int]:
    """The red part of each pixel of a canvas."""
    script = (
        "const c = document.querySelector(arguments[0]);"
        "return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    )
    found: list[int] = browser.execute_script(script, selector)  # type: ignore[no-untyped-call]
    return found[::4]


def grey(row: np.ndarray[Any, Any]) -> list[int]:
    return [round(float(value) * 255) for value in row]


def test_test_examples_are_sorted_by_loss_by_being_wrong_and_by_class(
    browser: Chrome, digits: Subject
) -> None:
    browser.get(digits.page("direct", "test"))
    first(browser, ".listbox li")
    for sort in ("-loss", "-error", "target"):
        Select(first(browser, ".side-head select")).select_by_value(sort)
        items = digits.get("direct", "/rows", side="test", sort=sort, limit=40)["items"]
        expected = [f"row {item['row']}" for item in items]
        until(browser, lambda e=expected: texts(browser, ".listbox .row-number") == e)  # type: ignore[misc]
        first(browser, ".focus-example h2", f"Test row {items[0]['row']}")
    Select(first(browser, ".side-head select")).select_by_value("-error")
    until(
        browser,
        lambda: "wrong" in (first(browser, ".listbox li").get_attribute("aria-label") or ""),
    )
    press(browser, "button.more")
    until(browser, lambda: len(all_of(browser, ".listbox li")) == 80)
    assert_calm(browser, digits.url)


def test_the_training_set_is_ranked_and_wrong_labels_are_marked(
    browser: Chrome, digits: Subject
) -> None:
    browser.get(digits.page("direct", "training"))
    first(browser, ".ranking tbody tr")
    items = digits.get("direct", "/top", k=40, sign="harmful")["items"]
    rows = all_of(browser, ".ranking tbody tr")
    assert [int(row.get_attribute("data-row") or -1) for row in rows] == [
        item["row"] for item in items
    ]
    assert [exact(row, ".number.harmful span") for row in rows] == [
        item["influence"] for item in items
    ]
    marked = {int(row.get_attribute("data-row") or -1) for row in all_of(browser, ".doubtful")}
    labels = digits.digits.y_train
    # The first 40 are below a tenth of 1,400: the rule leaves the prediction to decide.
    assert marked == {i["row"] for i in items if digits.predicted[i["row"]] != labels[i["row"]]}
    assert len(marked & set(digits.digits.flipped.tolist())) > 30
    screenshot(browser, "training-set")

    Select(first(browser, ".view-head select[aria-label='Rank by']")).select_by_value("self")
    best = digits.get("self", "/top", k=40)["items"]
    until(
        browser,
        lambda: (
            [int(row.get_attribute("data-row") or -1) for row in all_of(browser, "tbody tr")]
            == [item["row"] for item in best]
        ),
    )
    assert "learn the row by heart" in first(browser, ".rule").text
    assert_calm(browser, digits.url)


def test_the_ranking_is_taken_away_as_csv(browser: Chrome, digits: Subject, tmp_path: Path) -> None:
    browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    browser.get(digits.page("direct", "training"))
    press(browser, "button", "Download CSV")
    file = tmp_path / f"{digits.jobs['direct']}-harmful.csv"
    until(browser, file.exists)
    with file.open(newline="") as opened:
        found = list(csv.DictReader(opened))
    items = digits.get("direct", "/top", k=1400, sign="harmful")["items"]
    for name in ("id", "row"):
        assert [int(line[name]) for line in found] == [item[name] for item in items]
    assert [float(line["mean_influence"]) for line in found] == [i["influence"] for i in items]
    doubted = {int(line["row"]) for line in found if line["label_doubtful"] == "1"}
    lowest = {item["row"] for item in items[:140] if item["influence"] < 0}
    wrong = set(np.flatnonzero(digits.predicted != digits.digits.y_train).tolist())
    assert doubted == lowest & wrong
    assert_calm(browser, digits.url)


def test_influence_of_each_pixel_is_drawn_over_the_picture(
    browser: Chrome, digits: Subject
) -> None:
    browser.get(digits.page("perturbation", "perturbation", 2, 17))
    first(browser, ".pair h3", "Training row 17")
    first(browser, ".pair h3", "Test row 5")
    answer = digits.get("perturbation", "/influences", test="2", train="17")
    values = np.asarray(answer["values"][0][0])
    strongest = values[np.abs(values).argmax()]
    said = first(browser, ".strongest").text
    assert written(said.split("strongest ")[1].split(",")[0]) == pytest.approx(strongest, rel=6e-3)
    ends = texts(browser, ".ramp-ends span")
    assert written(ends[2].split()[0]) == pytest.approx(np.abs(values).max(), rel=6e-3)
    red = np.asarray(pixels(browser, ".heat canvas"))  # blue helps, orange harms: red tells
    assert red[values.argmin()] > red[values.argmax()]
    clear = np.abs(values) > 0.3 * np.abs(values).max()
    assert red[clear & (values > 0)].max() < red[clear & (values < 0)].max()
    until(browser, lambda: len(all_of(browser, ".split.three .side:nth-child(2) li")) == 30)
    screenshot(browser, "perturbation")
    assert_calm(browser, digits.url)


def test_conjugate_gradients_that_were_cut_short_are_said_to_be(
    browser: Chrome, digits: Subject
) -> None:
    browser.get(digits.page("starved", "inversion"))
    info = digits.get("starved", "/info")["summary"]
    failed = sum(n for status, n in info["statuses"].items() if status != "converged")
    assert 0 < failed <= 60
    first(browser, ".trust", "Was the linear system solved?")
    solved, applies = texts(browser, ".trust")
    told = digits.get("starved", "")["verdict"]
    assert f"{failed} of 60 right-hand sides did not converge" in told["solved"]["text"]
    assert told["solved"]["text"] in solved
    assert "Does influence apply here?" in applies
    assert told["applies"]["text"] in applies
    until(browser, lambda: len(all_of(browser, "circle.mark.bad")) == failed)
    norms = digits.array("starved", "residual_norms")
    tips = browser.execute_script(  # type: ignore[no-untyped-call]
        "return [...document.querySelectorAll('circle.mark title')].map((e) => e.textContent)"
    )
    assert len(tips) == 60
    assert [written(tip.split(": ")[1]) for tip in tips] == pytest.approx(norms.tolist(), rel=6e-3)
    steps = digits.array("starved", "iterations")
    few, many = steps.min(), steps.max()
    said = f"took {few} iterations" if few == many else f"took {few} to {many} iterations"
    assert said in first(browser, ".plot", "Iterations").text
    screenshot(browser, "inversion-cg")
    assert_calm(browser, digits.url)


def test_a_sketch_is_shown_as_what_it_is(browser: Chrome, digits: Subject) -> None:
    browser.get(digits.page("nystroem", "inversion"))
    plot = first(browser, ".plot", "spectrum")
    assert tips(browser, plot) == pytest.approx(digits.array("nystroem", "eigenvalues"), rel=6e-4)
    assert "eigenvalues of H that were found, by size" in plot.text
    assert "low-rank answer" in first(browser, ".trust").text
    assert "Nyström" in first(browser, ".job-head .facts").text
    # Nobody measured residuals of its pairs.
    assert not [each for each in all_of(browser, ".plot") if "eigenpair" in each.text]


def test_spectra_are_those_of_the_hessian(browser: Chrome, digits: Subject) -> None:
    browser.get(digits.page("arnoldi", "inversion"))
    plot = first(browser, ".plot", "spectrum")
    eigenvalues = digits.array("arnoldi", "eigenvalues")
    expected = eigenvalues[np.argsort(-np.abs(eigenvalues))]
    assert tips(browser, plot) == pytest.approx(expected, rel=6e-4)
    assert "low-rank answer" in first(browser, ".trust").text
    screenshot(browser, "inversion-arnoldi")

    browser.get(digits.page("direct", "inversion"))
    said = first(browser, ".trust", "condition number").text  # no longer arnoldi's page
    plot = first(browser, ".plot", "spectrum")
    every = digits.array("direct", "eigenvalues")
    expected = np.sort(every)[::-1][::2]  # of 2,410, a plot shows no more than 2,000
    shown = tips(browser, plot)
    assert len(shown) == 1205
    assert shown == pytest.approx(expected, rel=6e-4)
    assert f"{(np.abs(every) < DAMPING).sum():,} lie below λ" in plot.text
    assert first(browser, ".plot .end.halo", "λ = 0.05")
    screenshot(browser, "inversion-direct")
    info = digits.get("direct", "/info")["summary"]
    assert (info["smallest_eigenvalue"], info["largest_eigenvalue"]) == (every[0], every[-1])
    condition = (info["largest_eigenvalue"] + 0.05) / (info["smallest_eigenvalue"] + 0.05)
    assert written(said.split("condition number of ")[1].split()[0].rstrip(".")) == pytest.approx(
        condition, rel=6e-3
    )
    browser.get(digits.page("lissa", "inversion"))
    first(browser, ".trust", "all 12 right-hand sides converged")
    plot = first(browser, ".plot", "LiSSA's course")
    slowest = digits.array("lissa", "course_percent").max(axis=0)
    shown = tips(browser, plot)
    assert len(shown) > 8
    assert shown == pytest.approx(slowest[: len(shown)].tolist(), rel=6e-4)
    screenshot(browser, "inversion-lissa")
    assert_calm(browser, digits.url)


def tips(browser: Chrome, plot: WebElement) -> list[float]:
    """The number that each mark of a plot tells."""
    script = "return [...arguments[0].querySelectorAll('circle title')].map((e) => e.textContent)"
    told: list[str] = browser.execute_script(script, plot)  # type: ignore[no-untyped-call]
    return [written(tip.split(": ")[1]) for tip in told]


def test_a_view_asks_only_for_what_it_shows(browser: Chrome, digits: Subject) -> None:
    browser.get(digits.page("direct", "test"))
    first(browser, ".focus-example h2")
    time.sleep(0.3)
    size = browser.execute_script(  # type: ignore[no-untyped-call]
        "return performance.getEntriesByType('resource').filter((e) => e.name.includes('/v1/'))"
        ".reduce((sum, e) => sum + e.transferSize, 0)"
    )
    assert 0 < size < 100_000  # of a result of 2.2 million bytes
