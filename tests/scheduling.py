"""Which tests run in one process, and which come first, when several run side by side."""

from __future__ import annotations

from typing import Any

from xdist.scheduler import LoadFileScheduling

# What shares what is dear to make, each named by its first: a browser, and a service with a job for each view; a
# service with two workers that is broken again and again; one in the middle of an upgrade; one that wants keys; and one
# on S3, which ends that on a folder.
TOGETHER = (
    ("tests/browser/",),
    ("tests/faults/",),
    ("tests/operation/test_rolling_upgrade.py", "tests/operation/test_seen_from_outside.py"),
    (
        "tests/operation/test_turns.py",
        "tests/journeys/test_bad_input.py",
        "tests/cli/test_doctor.py",
        "tests/cli/test_mistakes.py",
        "tests/local/test_keyed.py",
    ),
    ("tests/journeys/test_datasets.py", "tests/journeys/test_results.py"),
)
# Those that take minutes, the longest first: whoever came to one last would leave the other processes nothing to do.
# The chaotic run has a service of its own.
FIRST = (
    "tests/faults/test_chaos.py",
    "tests/faults/",
    "tests/browser/",
    "tests/journeys/test_models.py",
    "tests/local/test_stack.py",
    "tests/security/test_contract.py",
    "tests/journeys/test_machines.py",
    "tests/operation/test_rolling_upgrade.py",
    "tests/operation/test_turns.py",
)
LAST = "tests/journeys/test_datasets.py"  # after it, others would make their service again


class ByFileOrFolder(LoadFileScheduling):
    """A module's tests together, and those of some modules; what takes long first, and then what has many tests."""

    def _split_scope(self, nodeid: str) -> str:
        scope = super()._split_scope(nodeid)
        if scope in FIRST:
            return scope
        return next((group[0] for group in TOGETHER if nodeid.startswith(group)), scope)

    def _assign_work_unit(self, node: Any) -> None:
        if LAST in self.workqueue:
            self.workqueue.move_to_end(LAST)
        first = next((scope for scope in FIRST if scope in self.workqueue), None)
        if first is not None:
            self.workqueue.move_to_end(first, last=False)
        super()._assign_work_unit(node)
