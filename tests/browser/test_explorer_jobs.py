"""Jobs from the browser: started by the form, followed live, cancelled, retried, deleted; with a key if one is set."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from service.local.background import Running
from tests.browser.layout import unreadable
from tests.browser.page import all_of, assert_calm, first, press, screenshot, texts, until
from tests.browser.subject import Subject
from tests.curvatures import CURVATURES
from tests.methods import METHODS
from tests.patience import PATIENCE, ended

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

# So far below what would do that every step of LiSSA counts: it ends when it is told to.
ENDLESS = {"inversion": {"method": "lissa", "scale": 1e7, "rtol": 1e-15, "maxiter": 2_000_000}}


@pytest.fixture
def http(stack: Running) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=stack.url, timeout=PATIENCE, trust_env=False) as client:
        yield client
        # A test that failed leaves the worker to the next ones.
        for job in client.get("/v1/jobs?state=running").json()["items"]:
            client.post(f"/v1/jobs/{job['id']}/cancel")


@pytest.fixture
def on_digits(digits: Subject) -> dict[str, Any]:
    """A request on the digits, by id."""
    return {
        "kind": "influences",
        "model": digits.records["model"],
        "train": {"dataset": digits.records["train"]},
        "test": {"dataset": digits.records["test"], "rows": "0:4"},
        "hessian_regularization": 0.05,
    }


def row_of(browser: Chrome, id: str) -> WebElement:
    return first(browser, f"tr[data-job='{id}']")


def test_a_job_is_seen_live_and_cancelled_retried_and_deleted(
    browser: Chrome, digits: Subject, http: httpx2.Client, on_digits: dict[str, Any]
) -> None:
    browser.get(digits.url)
    first(browser, "tr[data-job]")
    id = http.post("/v1/jobs", json={**on_digits, **ENDLESS}).json()["id"]
    until(browser, lambda: "running" in row_of(browser, id).text)  # without a reload
    until(browser, lambda: all_of(row_of(browser, id), "progress[value]"))
    assert "digits-test [0:4] ← digits-train" in row_of(browser, id).text
    screenshot(browser, "jobs")
    press(browser, f"tr[data-job='{id}'] button.cancel")
    until(browser, lambda: "cancelled" in row_of(browser, id).text)
    assert http.get(f"/v1/jobs/{id}").json()["state"] == "cancelled"
    press(browser, f"tr[data-job='{id}'] button.retry")
    until(browser, lambda: "running" in row_of(browser, id).text)

    press(browser, f"tr[data-job='{id}'] .what a")
    first(browser, ".under-way", "%")  # the page of the job, by its events
    press(browser, "button.cancel")
    first(browser, ".badge", "cancelled")
    press(browser, "button.delete")
    browser.switch_to.alert.accept()
    first(browser, "h1", "Jobs")
    until(browser, lambda: not all_of(browser, f"tr[data-job='{id}']"))
    assert http.get(f"/v1/jobs/{id}").status_code == 404
    assert_calm(browser, digits.url)


def test_a_job_leads_to_the_one_that_its_factors_are_of(
    browser: Chrome, digits: Subject, http: httpx2.Client, on_digits: dict[str, Any]
) -> None:
    def computed(**values: Any) -> str:
        made = http.post("/v1/jobs", json=values).raise_for_status().json()["id"]
        assert ended(http, f"/v1/jobs/{made}")["state"] == "succeeded"
        return str(made)

    solved = {"inversion": {"method": "arnoldi", "rank_estimate": 5}}
    earlier = computed(**{**on_digits, "kind": "factors"}, **solved)
    kept = ("kind", "model", "train")
    later = computed(**{name: on_digits[name] for name in kept}, factors=earlier)
    browser.get(f"{digits.url}/#/jobs/{later}/inversion")
    press(browser, f"a[href*='{earlier}']")
    first(browser, "h1", "Factors")
    assert f"#/jobs/{earlier}" in browser.current_url
    first(browser, ".facts", earlier)
    assert_calm(browser, digits.url)


def test_a_job_that_the_numbers_do_not_allow_is_started_again_with_what_would_do(
    browser: Chrome, digits: Subject, http: httpx2.Client, on_digits: dict[str, Any]
) -> None:
    tiny = {**on_digits, "hessian_regularization": 1e-9, "inversion": {"method": "direct"}}
    failed = http.post("/v1/jobs", json=tiny).raise_for_status().json()["id"]
    record = ended(http, f"/v1/jobs/{failed}")
    enough = record["problem"]["errors"][0]["suggestion"]
    browser.get(f"{digits.url}/#/jobs/{failed}")
    words = first(browser, "button.again").text
    assert words == f"Start again with λ = {enough:g}"
    assert not all_of(browser, "button.retry")  # it could only fail again
    assert unreadable(browser, "failed") == []
    press(browser, "button.again")
    until(browser, lambda: failed not in browser.current_url)
    first(browser, ".badge", "succeeded")
    again = http.get(f"/v1/jobs/{browser.current_url.partition('#/jobs/')[2]}").json()
    assert again["request"]["hessian_regularization"] == enough
    browser.get(f"{digits.url}/#/jobs")
    assert f"λ = {enough:g}" in row_of(browser, failed).text
    assert_calm(browser, digits.url)


def test_of_several_dampings_those_that_are_too_small_are_raised(
    browser: Chrome, digits: Subject, http: httpx2.Client, on_digits: dict[str, Any]
) -> None:
    several = {"hessian_regularization": [1e-9, 1.0], "inversion": {"method": "direct"}}
    failed = http.post("/v1/jobs", json={**on_digits, **several}).raise_for_status().json()["id"]
    enough = ended(http, f"/v1/jobs/{failed}")["problem"]["errors"][0]["suggestion"]
    browser.get(f"{digits.url}/#/jobs/{failed}")
    assert first(browser, "button.again").text == f"Start again with λ ≥ {enough:g}"
    press(browser, "button.again")
    until(browser, lambda: failed not in browser.current_url)
    first(browser, ".badge", "succeeded")
    again = http.get(f"/v1/jobs/{browser.current_url.partition('#/jobs/')[2]}").json()
    assert again["request"]["hessian_regularization"] == [enough, 1.0]
    assert_calm(browser, digits.url)


def test_what_a_job_would_take_stands_in_the_form_and_what_is_known_to_fail_waits_for_a_word(
    browser: Chrome, digits: Subject, http: httpx2.Client, on_digits: dict[str, Any]
) -> None:
    asked = {**on_digits, "inversion": {"method": "direct"}, "labels": {"run": "estimate"}}
    begun = http.post("/v1/jobs", json=asked).raise_for_status().json()["id"]
    assert ended(http, f"/v1/jobs/{begun}")["state"] == "succeeded"
    told = http.post("/v1/jobs?dry_run=true", json=asked).json()["estimate"]
    browser.get(f"{digits.url}/#/new?from={begun}")
    names, values = ".estimate dt", ".estimate dd"
    first(browser, values, "about")
    assert texts(browser, names)[:3] == ["Time", "Result", "Memory of a worker"]
    time, result, memory = texts(browser, values)[:3]
    assert told["rate"] in time
    assert result == f"{told['bytes'] / 1024**2:.0f} MiB"
    assert memory == f"{told['memory_bytes'] / 1024**2:.0f} MiB at most"
    assert unreadable(browser, "new-with-estimate") == []

    damping = field(browser, "hessian_regularization")
    damping.clear()
    damping.send_keys("1e-9")
    press(browser, "button[type='submit']")
    refused = first(browser, ".estimate .note", "known to fail")
    assert all_of(refused, "a[href*='job_']")
    first(browser, ".job-form .note", "Nothing has been started")
    assert first(browser, "button[type='submit']").text == "Start it all the same"
    enough = http.post(
        "/v1/jobs?dry_run=true", json={**asked, "hessian_regularization": 1e-9}
    ).json()["estimate"]["enough"]
    press(browser, ".estimate button", f"Take λ = {enough:g}")
    until(browser, lambda: not texts(browser, ".estimate .note"))
    damping = field(browser, "hessian_regularization")
    assert float(damping.get_attribute("value") or 0) == enough
    assert browser.switch_to.active_element == damping
    damping.clear()
    damping.send_keys("1e-9")
    press(browser, "button[type='submit']")
    first(browser, ".job-form .note", "Nothing has been started")
    there = http.get("/v1/jobs?label=run=estimate").json()["items"]
    assert [each["id"] for each in there] == [begun]
    press(browser, "button[type='submit']")
    first(browser, ".badge", "failed")
    assert_calm(browser, digits.url)


def test_rows_values_and_sets_are_sent_as_they_are_typed(browser: Chrome, digits: Subject) -> None:
    browser.get(f"{digits.url}/#/new?from={digits.jobs['direct']}")
    first(browser, ".aside > summary")
    for summary in all_of(browser, ".aside > summary"):
        summary.click()
    for names, text in {
        ("groups",): "0:10\n3,17\n[20, 21]",
        ("train", "where"): 'y=3\ny=4\nsource="7"',
        ("train", "ids"): '5, "6", seven',
        ("labels",): "run=12",
    }.items():
        inside = " ".join(f"[data-field='{name}']" for name in names)
        first(browser, f"{inside} :is(input, textarea)").send_keys(text)
    press(browser, "button.copy", "Copy as curl")
    body = first(browser, ".copied").text.partition("-d '")[2].rpartition("'")[0]
    request = json.loads(body)
    assert request["groups"] == ["0:10", "3,17", [20, 21]]
    assert request["train"]["where"] == {"y": [3, 4], "source": ["7"]}
    assert request["train"]["ids"] == [5, "6", "seven"]
    assert request["labels"] == {"run": "12"}


def test_the_list_is_narrowed_by_state(browser: Chrome, digits: Subject) -> None:
    browser.get(f"{digits.url}/#/jobs?state=succeeded")
    first(browser, "tr[data-job]")
    Select(first(browser, "select")).select_by_value("queued")
    first(browser, ".empty", "No job is queued")
    assert browser.current_url.endswith("#/jobs?state=queued")
    assert_calm(browser, digits.url)


def field(browser: Chrome, *names: str) -> WebElement:
    """The control of a field of the form."""
    inside = " ".join(f"[data-field='{name}']" for name in names)
    return first(browser, f"{inside} :is(input, select)")


def test_the_form_knows_the_methods_and_shows_errors_at_their_fields(
    browser: Chrome, digits: Subject, http: httpx2.Client
) -> None:
    document = http.get("/openapi.json").json()["components"]["schemas"]
    browser.get(f"{digits.url}/#/new")
    method = Select(first(browser, "[data-field='inversion'] select"))
    schemas = {name: row.schema.__name__ for name, row in METHODS.items()}
    assert {option.text for option in method.options} == set(schemas)
    for name, schema in schemas.items():
        method.select_by_value(name)
        shown = {
            each.get_attribute("data-field")
            for each in all_of(browser, "[data-field='inversion'] [data-field]")
        }
        expected = set(document[schema]["properties"]) - {"method"}
        assert expected <= shown <= expected | {"name", "rank"}
    method.select_by_value("cg")
    assert field(browser, "rtol").get_attribute("placeholder") == "1e-7"
    assert "Relative residual" in first(browser, "[data-field='rtol'] .help").text

    field(browser, "model").send_keys("no-such-net")
    field(browser, "train", "dataset").send_keys(digits.records["train"])
    field(browser, "test", "dataset").send_keys(digits.records["test"])
    field(browser, "rtol").send_keys("-1")
    press(browser, "button[type='submit']")
    first(browser, "[data-field='rtol'] .field-error", "must be at least 0")
    assert browser.switch_to.active_element == field(browser, "rtol")
    field(browser, "rtol").clear()
    press(browser, "button[type='submit']")
    assert "no-such-net" in first(browser, "[data-field='model'] .field-error", "no").text
    assert texts(browser, "[data-field='rtol'] .field-error") == [""]
    screenshot(browser, "form-with-an-error")
    # What was refused is all that the browser may complain of.
    assert all("status of 4" in entry["message"] for entry in browser.get_log("browser"))


def test_a_job_started_from_the_form_runs_and_is_shown(
    browser: Chrome, digits: Subject, http: httpx2.Client
) -> None:
    browser.get(f"{digits.url}/#/new?from={digits.jobs['direct']}")
    assert field(browser, "model").get_attribute("value") == digits.records["model"]
    Select(first(browser, "[data-field='inversion'] select")).select_by_value("arnoldi")
    field(browser, "rank_estimate").send_keys("12")
    kinds = Select(field(browser, "curvature", "kind"))
    assert [option.text for option in kinds.options] == list(CURVATURES)
    assert kinds.first_selected_option.text == "hessian"
    kinds.select_by_value("gauss_newton")
    field(browser, "test", "rows").send_keys("5:9")
    press(browser, "button[type='submit']")
    first(browser, ".badge", "succeeded")
    first(browser, ".focus-example h2", "Test row 5")
    id = browser.current_url.split("/jobs/")[1].split("/")[0]
    job = http.get(f"/v1/jobs/{id}").json()
    assert job["request"]["curvature"] == {"kind": "gauss_newton", "structure": "full"}
    first(browser, ".facts", "Gauss-Newton · Arnoldi")
    assert job["request"]["inversion"]["rank_estimate"] == 12
    assert job["request"]["hessian_regularization"] == 0.05
    assert job["result"]["influence_shape"] == [4, 1400]
    assert_calm(browser, digits.url)


def test_the_key_is_asked_for_once_and_kept_in_the_session_alone(
    browser: Chrome, keyed_stack: Running, make_key: Callable[..., str], fresh_name: str
) -> None:
    key = make_key(fresh_name)
    browser.get(keyed_stack.url)
    first(browser, "dialog .note", "wants a key")
    first(browser, "dialog input").send_keys("uwk_wrong")
    press(browser, "dialog button", "Use this key")
    first(browser, "dialog .note", "not known")
    screenshot(browser, "key")
    first(browser, "dialog input").send_keys(key)
    press(browser, "dialog button", "Use this key")
    first(browser, ".empty h2", "No jobs yet")
    browser.refresh()
    first(browser, ".empty h2", "No jobs yet")
    script = "return [{...sessionStorage}, {...localStorage}, document.cookie]"
    session, local, cookie = browser.execute_script(script)  # type: ignore[no-untyped-call]
    assert session == {"upweight-key": key}
    assert local == {}
    assert cookie == ""
    press(browser, "#key-button")
    press(browser, "dialog button", "Forget")
    first(browser, "dialog .note", "wants a key")
    assert all("status of 401" in entry["message"] for entry in browser.get_log("browser"))
