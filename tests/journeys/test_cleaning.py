"""The whole loop: suspects, a derived dataset, a model trained anew on it, and the page that compares both."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from upweight import Client, errors
from upweight.schema import ModelRecord

RECIPE = {"optimizer": "adamw", "lr": 0.05, "batch_size": 16, "epochs": 20, "seed": 2}
NAMES = ["<b>left</b>", "right & 'up'"]


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(3, 2).double().eval()


def rows(count: int, seed: int) -> tuple[Any, Any]:
    x = np.random.default_rng(seed).normal(size=(count, 3))
    return x, (x[:, 0] > 0).astype(np.int64)


@pytest.fixture(scope="module")
def cleaned(online: Client) -> tuple[ModelRecord, set[int], set[str]]:
    """The model after the loop, the rows whose label was flipped, and the ids that were dropped."""
    x, y = rows(80, 0)
    flipped = {3, 17, 40, 61}
    y[list(flipped)] = 1 - y[list(flipped)]
    train = online.datasets.register(
        "loop-train", x=x, y=y, ids=[f"r{row}" for row in range(80)], class_names=NAMES
    )
    xt, yt = rows(30, 1)
    online.datasets.register("loop-test", x=xt, y=yt, class_names=NAMES)
    trained = plain(x, y)
    model = online.models.register(
        "loop", trained, example=torch.from_numpy(x[:2]), loss="cross_entropy", recipe=RECIPE,
        initial=network(),
    )  # fmt: skip
    itself = online.self_influences(model, train, hessian_regularization=0.05)
    suspects = itself.suspects(8)
    clean = online.datasets.derive("loop-clean", train, drop=suspects)
    return online.retrain(model, clean, test="loop-test"), flipped, set(suspects.ids)


def plain(x: Any, y: Any) -> nn.Module:
    """The same training by torch alone."""
    net = network()
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.05, weight_decay=0.0)
    for epoch in range(20):
        generator = torch.Generator().manual_seed(2 * 1_000_003 + epoch)
        for batch in torch.randperm(len(y), generator=generator).split(16):
            optimiser.zero_grad()
            cross_entropy(net(x[batch]), y[batch]).backward()
            optimiser.step()
    return net.eval()


def test_a_model_trained_on_the_view_is_that_of_its_rows_by_torch(cleaned: Any) -> None:
    model, flipped, dropped = cleaned
    assert {f"r{row}" for row in flipped} <= dropped
    x, y = rows(80, 0)
    y[list(flipped)] = 1 - y[list(flipped)]
    keep = [row for row in range(80) if f"r{row}" not in dropped]
    xt, yt = (torch.from_numpy(each) for each in rows(30, 1))
    for metrics, net in (
        (model.training.parent_metrics, plain(x, y)),
        (model.training.metrics, plain(x[keep], y[keep])),
    ):
        with torch.no_grad():
            outputs = net(xt)
        assert metrics.loss == pytest.approx(float(cross_entropy(outputs, yt)), rel=1e-8)
        assert metrics.accuracy == float((outputs.argmax(1) == yt).double().mean())
    assert model.training.rows == 72


class Page(HTMLParser):
    """The cells of a page's tables, and all of its elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[str] = []
        self._open = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        assert not {"src", "href"} & {name for name, _ in attrs}
        self._open = tag in ("td", "th")
        if self._open:
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self._open:
            self.cells[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag not in ("td", "th")


def test_the_report_is_one_page_with_the_numbers_of_both_models(
    online: Client, cleaned: Any, tmp_path: Path
) -> None:
    model, *_ = cleaned
    path = online.models.save_report(model, tmp_path / "report.html")
    text = path.read_text()
    page = Page(text)
    before, after = model.training.parent_metrics, model.training.metrics
    at = page.cells.index("accuracy")
    assert page.cells[at + 1 : at + 3] == [
        f"{100 * each.accuracy:.2f} %" for each in (before, after)
    ]
    at = page.cells.index("loss")
    assert page.cells[at + 1 : at + 3] == [f"{each.loss:.4g}" for each in (before, after)]
    for each, first in zip(after.by_class, before.by_class, strict=True):
        name = f"{NAMES[each.label]} ({each.rows} rows)"  # escaped, and read back
        at = page.cells.index(name)
        assert page.cells[at + 1 : at + 3] == [
            f"{100 * one.accuracy:.2f} %" for one in (first, each)
        ]
        at = page.cells.index(name, at + 1)
        assert page.cells[at + 1 : at + 3] == [f"{one.loss:.4g}" for one in (first, each)]
    assert not {"script", "link", "img", "iframe", "b"} & page.tags
    assert not re.search(r"https?://|url\(|@import", text)
    assert "loop-train@1 without 8 of its rows" in text


def test_the_page_may_load_nothing_and_is_of_retrainings_alone(
    http: httpx2.Client, online: Client, cleaned: Any, tmp_path: Path
) -> None:
    model, *_ = cleaned
    answer = http.get(f"/v1/jobs/{model.training.job}/report.html")
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    other = next(job for job in online.jobs.list() if job.request.kind == "self_influences")
    refused = http.get(f"/v1/jobs/{other.id}/report.html")
    assert refused.status_code == 404
    assert "of kind 'retrain'" in refused.json()["detail"]
    with pytest.raises(errors.InvalidRequest, match="no job has trained it"):
        online.models.save_report("loop", tmp_path / "none.html")
    assert not list(tmp_path.iterdir())
