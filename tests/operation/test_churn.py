"""A worker stays as large as its cache, however many models pass through it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from service.local.background import running
from tests.operation.churn import MIB, Churn, Sample, tenants_of

pytestmark = pytest.mark.timeout(400)  # beside others on a busy machine; some 20 s alone
PARAMETERS = 600_000  # 2.3 MiB
CACHE = 6 * MIB
BEFORE, AFTER = 2, 5  # models
# What is freed is given back at once, so that growth is what is held and not what malloc keeps for later.
AT_ONCE = {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}
GROWTH = 36.0  # MiB; held on to, each model left six times its parameters


def test_other_models_again_and_again_leave_memory_handles_and_tables_as_they_were(
    tmp_path: Path,
) -> None:
    small = {"UPWEIGHT_CACHE_BYTES": str(CACHE), "UPWEIGHT_THREADS": "1", **AT_ONCE}
    with running(tmp_path, environment=small) as service, ExitStack() as stack:
        churn = Churn(service, tenants_of(service, 2, stack))
        for _ in range(BEFORE):
            churn.turn(PARAMETERS)
        before = churn.sample()
        for _ in range(AFTER):
            churn.turn(PARAMETERS)
        after = churn.sample()
    assert after.memory["worker-1"] - before.memory["worker-1"] < GROWTH
    assert after.memory["front"] - before.memory["front"] < GROWTH
    for name, handles in after.handles.items():
        assert handles <= before.handles[name] + 4, name
    assert sum(of_queue(after).values()) <= sum(of_queue(before).values())
    assert after.tables.get("rq:failed", 0) == 0, "a task raised, whatever became of its job"
    assert after.tables.get("upweight:tries", 0) == 0
    assert after.tables["upweight:job"] == churn_kept(churn)


def of_queue(sample: Sample) -> dict[str, int]:
    """The queue's keys, without the locks that it has for the moment in which it looks after itself."""
    return {
        name: count
        for name, count in sample.tables.items()
        if name.startswith("rq:") and not name.startswith("rq:clean_")
    }


def churn_kept(churn: Churn) -> int:
    """Records of jobs that were not deleted."""
    return sum(len(tenant.jobs) for tenant in churn.tenants)
