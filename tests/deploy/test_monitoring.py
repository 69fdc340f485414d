"""What the dashboard and the alerts ask for is there: a renamed metric would leave an empty panel that nobody sees."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.local.background import Running

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
SUFFIXES = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_sum", "_count"),
    "info": ("_info",),
    "gauge": ("",),
}


def of_the_dashboard() -> Iterator[str]:
    dashboard = json.loads((DEPLOY / "grafana" / "upweight.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]


def of_the_alerts() -> Iterator[str]:
    alerts: Any = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())
    for group in alerts["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]


def of_the_scaling() -> Iterator[str]:
    for scaled in yaml.safe_load_all((DEPLOY / "kubernetes" / "scaling.yaml").read_text()):
        for trigger in scaled["spec"].get("triggers", ()):
            if trigger["type"] == "prometheus":
                yield trigger["metadata"]["query"]


@pytest.fixture(scope="module")
def offered(stack: Running) -> dict[str, set[str]]:
    """Names of samples, and the labels that those which are there have."""
    text = httpx2.get(f"{stack.url}/metrics", trust_env=False).text
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        labels = {label for sample in family.samples for label in sample.labels}
        for suffix in SUFFIXES[family.type]:
            found[family.name + suffix] = labels
    return found


@pytest.mark.parametrize("source", [of_the_dashboard, of_the_alerts, of_the_scaling])
def test_every_metric_that_is_asked_for_is_offered(
    offered: dict[str, set[str]], source: Any
) -> None:
    asked = {name for query in source() for name in re.findall(r"\bupweight_[a-z_]+", query)}
    assert asked
    assert asked <= set(offered)


def test_the_dashboard_shows_every_metric_but_descriptions(offered: dict[str, set[str]]) -> None:
    asked = {
        name for query in of_the_dashboard() for name in re.findall(r"upweight_[a-z_]+", query)
    }
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    shown = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for name in offered
        if not name.endswith("_created")  # the client library's own, a moment
    }
    assert shown - families == {"upweight_worker_info"}


def test_keda_listens_to_what_tells_how_many_tasks_wait() -> None:
    from rq import Queue

    from service.storage.queue import EVERY

    lists = set()
    for scaled in yaml.safe_load_all((DEPLOY / "kubernetes" / "scaling.yaml").read_text()):
        for trigger in scaled["spec"].get("triggers", ()):
            lists.add(trigger["metadata"].get("listName"))
    prefix = Queue.redis_queue_namespace_prefix
    assert lists - {None} == {f"{prefix}{name}:waiting" for name in EVERY}
