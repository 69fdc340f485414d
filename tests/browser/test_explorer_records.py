"""Models and data have pages; jobs are named, found and compared in the browser."""

from __future__ import annotations

import httpx2
import numpy as np
import pytest
from scipy.stats import spearmanr
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys

from demo.digits import DAMPING
from service.local.background import Running
from tests.browser.layout import unreadable
from tests.browser.page import all_of, assert_calm, first, press, texts, until
from tests.browser.subject import Subject
from upweight import Client

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def test_a_model_leads_to_its_jobs_and_to_a_new_one(browser: Chrome, digits: Subject) -> None:
    with Client(digits.url) as client:
        newest = next(iter(client.jobs.list(model="digits-mlp"))).id
    browser.get(f"{digits.url}/#/models")
    press(browser, "tr[data-record] a", "digits-mlp@")
    first(browser, "h1", "digits-mlp@")
    assert "parameters" in first(browser, ".facts-list").text
    hrefs = [each.get_attribute("href") or "" for each in all_of(browser, ".columns a")]
    assert any(newest in href for href in hrefs)
    press(browser, ".view-head a.primary", "New job with it")
    field = first(browser, "[data-field='model'] input")
    assert (field.get_attribute("value") or "").startswith("digits-mlp@")
    assert_calm(browser, digits.url)


def test_numbers_that_may_be_pictures_are_shown_as_such_when_asked(
    browser: Chrome, stack: Running, digits: Subject, fresh_name: str
) -> None:
    with Client(stack.url) as client:
        made = client.datasets.register(
            fresh_name, x=digits.digits.x_train[:20], y=digits.digits.y_train[:20]
        )
        browser.get(f"{stack.url}/#/datasets/{made.id}")
        first(browser, ".gallery .features")
        press(browser, ".as-picture")
        first(browser, ".gallery canvas")
        assert len(all_of(browser, ".gallery canvas")) == 12
        preview = client.datasets.get(made).preview
    assert preview is not None
    assert preview.kind == "image"
    assert preview.shape == (8, 8)
    assert preview.maximum == digits.digits.x_train[:20].max()
    assert_calm(browser, stack.url)


def test_a_job_is_named_and_found_by_its_name(
    browser: Chrome, digits: Subject, fresh_name: str
) -> None:
    browser.get(digits.page("nystroem", "overview"))
    press(browser, "button.rename")
    first(browser, "dialog input").send_keys(f"sketch {fresh_name}")
    first(browser, "dialog textarea").send_keys("quick")
    press(browser, "dialog button", "Save")
    first(browser, "h1", f"sketch {fresh_name}")
    first(browser, ".job-note", "quick")
    browser.get(f"{digits.url}/#/jobs")
    first(browser, "input[type='search']").send_keys(fresh_name + Keys.ENTER)
    until(browser, lambda: texts(browser, ".jobs .what > a") == [f"sketch {fresh_name}"])
    assert f"search={fresh_name}" in browser.current_url
    assert_calm(browser, digits.url)


def test_older_jobs_are_on_the_next_page(browser: Chrome, digits: Subject) -> None:
    def listed(**query: object) -> list[str]:
        answer = httpx2.get(f"{digits.url}/v1/jobs", params=query, trust_env=False).json()  # type: ignore[arg-type]
        return [job["id"] for job in answer["items"]]

    second = listed(limit=2)[1]
    browser.get(f"{digits.url}/#/jobs?after={second}")
    first(browser, "tr[data-job]")
    shown = [row.get_attribute("data-job") for row in all_of(browser, "tr[data-job]")]
    assert shown == listed(limit=25, after=second)
    press(browser, ".pages a", "Newest")
    until(browser, lambda: all_of(browser, f"tr[data-job='{second}']"))


def test_two_results_are_compared_by_their_ranks(
    browser: Chrome, digits: Subject, fresh_name: str
) -> None:
    both = [digits.jobs[job] for job in ("self", "direct")]
    with Client(digits.url) as client:
        for job in both:
            client.jobs.change(job, note=fresh_name)
    browser.get(f"{digits.url}/#/jobs?search={fresh_name}")
    for job in both:
        press(browser, f"tr[data-job='{job}'] input[type='checkbox']")
    press(browser, ".view-head a", "Compare these two")
    shown = first(browser, ".spearman").text
    with Client(digits.url) as client:
        mine = client.jobs.result(digits.jobs["self"]).influences[:]
        mean = client.jobs.result(digits.jobs["direct"]).mean()
        for job in both:
            client.jobs.change(job, note="")
    assert float(shown.replace("−", "-")) == pytest.approx(spearmanr(mine, mean)[0], abs=6e-5)
    ranks = [np.argsort(np.argsort(-values, kind="stable")) for values in (mine, mean)]
    far = np.abs(ranks[0] - ranks[1])
    rows = [int(row.get_attribute("data-row") or -1) for row in all_of(browser, ".moved tbody tr")]
    assert far[rows].tolist() == sorted(far)[::-1][:20]
    assert_calm(browser, digits.url)


def test_a_job_is_copied_as_a_program_that_runs(browser: Chrome, digits: Subject) -> None:
    browser.get(f"{digits.url}/#/new?from={digits.jobs['lissa']}")
    press(browser, "button.copy", "Copy as Python")
    program = first(browser, "pre.copied").text
    found: dict[str, object] = {}
    exec(program, found)
    result = found["result"]
    assert result.job.request.inversion.method == "lissa"  # type: ignore[attr-defined]
    press(browser, "button.copy", "Copy as curl")
    assert f"curl -sS '{digits.url}/v1/jobs'" in first(browser, "pre.copied").text


def test_a_class_by_class_table_is_what_the_result_says(browser: Chrome, digits: Subject) -> None:
    names = ("digits-mlp", "digits-train", "digits-test")
    with Client(digits.url) as client:
        result = client.compute_influences(
            *names, inversion_method="direct", hessian_regularization=DAMPING,
            aggregate={"test": "y", "train": "y"},
        )  # fmt: skip
        values = result.numpy()
    browser.get(f"{digits.url}/#/jobs/{result.id}")
    first(browser, ".group-table")
    assert texts(browser, ".tabs a") == ["Overview", "Groups", "Inversion"]
    told = [float(cell.get_attribute("title") or 0) for cell in all_of(browser, ".group-table td")]
    assert told == pytest.approx(values.ravel().tolist())
    assert texts(browser, ".group-table tbody th") == [str(digit) for digit in range(10)]
    assert unreadable(browser, "groups") == []
    assert_calm(browser, digits.url)


def test_sets_that_are_removed_stand_beside_their_sums(browser: Chrome, digits: Subject) -> None:
    with Client(digits.url) as client:
        result = client.compute_influences(
            "digits-mlp", "digits-train", "digits-test", inversion_method="direct",
            hessian_regularization=DAMPING, test_rows="0:4", groups=["0:4", "4:10"],
        )  # fmt: skip
        values = [result.numpy(), result.rescaled.numpy()]
        leverage = result.job.info["rescaled"]["largest_leverage"]
    browser.get(f"{digits.url}/#/jobs/{result.id}")
    first(browser, ".group-pair h3", "Rescaled")
    told = [float(cell.get_attribute("title") or 0) for cell in all_of(browser, ".group-table td")]
    assert told == pytest.approx(np.concatenate([each.ravel() for each in values]).tolist())
    assert texts(browser, ".group-table thead th")[1:3] == ["set 0", "set 1"]
    words = first(browser, ".help", "Largest leverage").text
    assert words.endswith(f"set 1 {leverage[1]:.3g}.")
    assert unreadable(browser, "sets") == []
    assert_calm(browser, digits.url)


def test_a_job_of_products_names_the_dataset_that_its_vectors_are_rows_of(
    browser: Chrome, digits: Subject, fresh_name: str
) -> None:
    with Client(digits.url) as client:
        size = client.models.get("digits-mlp").parameter_count
        probes = client.datasets.register(
            fresh_name, v=np.ones((2, size), "f4"), inputs=["v"], targets=[]
        )
        found = client.compute_hvps("digits-mlp", "digits-train", probes, train_rows="0:20")
    browser.get(f"{digits.url}/#/jobs/{found.id}")
    first(browser, ".job-head .facts", f"{fresh_name} ← digits-train [0:20]")
    assert_calm(browser, digits.url)
    with Client(digits.url) as client:
        client.jobs.delete(found.id)
        client.datasets.delete(probes.id)


def test_the_first_page_leads_to_models_and_datasets(browser: Chrome, digits: Subject) -> None:
    browser.get(digits.url)
    first(browser, ".registered")
    newest = httpx2.get(f"{digits.url}/v1/datasets?limit=1", trust_env=False).json()["items"][0]
    press(browser, ".registered a", newest["name"])
    first(browser, "h1", f"{newest['name']}@")
    browser.get(f"{digits.url}/#/jobs?state=failed")
    first(browser, ".view-head")
    until(
        browser,
        lambda: not first(browser, "main").find_element("class name", "registered").is_displayed(),
    )
    assert_calm(browser, digits.url)


def test_a_jobs_overview_names_the_labels_that_deserve_a_look(
    browser: Chrome, digits: Subject
) -> None:
    browser.get(digits.page("self", "overview"))
    first(browser, ".suspects")
    items = digits.get("self", "/suspects", limit=5)["items"]
    assert texts(browser, ".suspects tbody th") == [str(item["id"]) for item in items]
    assert texts(browser, ".suspects tbody td") == [
        str(item[name]) for item in items for name in ("label", "predicted")
    ]
    press(browser, "a", "Go through them")
    first(browser, ".cleaning tbody tr")
    assert_calm(browser, digits.url)
