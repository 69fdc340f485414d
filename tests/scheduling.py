"""Which tests run in one process, and which come first, when several run side by side."""

from __future__ import annotations

from typing import Any

from xdist.scheduler import LoadFileScheduling

# Folders whose modules share what is dear to make: a browser, and a service with a job for each view; a service with
# two workers that is broken again and again.
TOGETHER = ("tests/browser/", "tests/faults/")
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
)


class ByFileOrFolder(LoadFileScheduling):
    """A module's tests together, and those of some folders; what takes long first, and then what has many tests."""

    def _split_scope(self, nodeid: str) -> str:
        scope = super()._split_scope(nodeid)
        if scope in FIRST:
            return scope
        return next((folder for folder in TOGETHER if nodeid.startswith(folder)), scope)

    def _assign_work_unit(self, node: Any) -> None:
        first = next((scope for scope in FIRST if scope in self.workqueue), None)
        if first is not None:
            self.workqueue.move_to_end(first, last=False)
        super()._assign_work_unit(node)
