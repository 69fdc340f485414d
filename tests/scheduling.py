"""Which tests run in one process, when several run side by side."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

# Their modules share what is dear to make: a browser, and a service with a job for each view.
TOGETHER = "tests/browser/"


class ByFileOrFolder(LoadFileScheduling):
    """A module's tests together, and those of that folder."""

    def _split_scope(self, nodeid: str) -> str:
        return TOGETHER if nodeid.startswith(TOGETHER) else super()._split_scope(nodeid)
