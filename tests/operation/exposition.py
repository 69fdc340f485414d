"""What `/metrics` says, parsed by Prometheus's own client."""

from __future__ import annotations

from collections.abc import Callable

import httpx2
from prometheus_client.parser import text_string_to_metric_families


def samples(url: str) -> Callable[..., float]:
    """A function from a sample's name and some of its labels to its value; the largest where several match."""
    text = httpx2.get(f"{url}/metrics", trust_env=False).text
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def value(name: str, **labels: str) -> float:
        matching = [
            sample.value
            for sample in found
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert matching, (name, labels)
        return max(matching)

    return value
