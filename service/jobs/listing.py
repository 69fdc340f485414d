"""What a list of jobs is narrowed by."""

from __future__ import annotations

from collections.abc import Sequence

from service.parts import Parts
from service.registry import filters_of, resolve
from service.storage.keys import Kind, by_use


def job_filters(
    parts: Parts,
    namespace: str,
    state: str | None,
    model: str | None,
    dataset: str | None,
    labels: Sequence[str],
) -> list[str]:
    """The indexes for `Records.page`. Raises NotFound for a model or dataset that is not there."""
    named: list[tuple[Kind, str | None]] = [("model", model), ("dataset", dataset)]
    used = [
        by_use(resolve(parts, kind, namespace, reference)["id"])
        for kind, reference in named
        if reference is not None
    ]
    return [*filters_of(state=state, labels=labels), *used]
