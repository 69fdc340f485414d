"""The most memory that a process held, above what it held before."""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path
from types import TracebackType

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
RESET_PEAK = "5"


class PeakMemory:
    """Around the work: `peak` is the highest resident size inside less the one at the start.

    On Linux the kernel's high-water mark is reset first. Elsewhere it cannot be, and a peak before
    the work, of an import for instance, hides a smaller one inside.
    """

    def __enter__(self) -> PeakMemory:
        with suppress(OSError):
            CLEAR.write_text(RESET_PEAK)
        self._before = _resident("VmRSS")
        self.peak = 0
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.peak = max(0, _resident("VmHWM") - self._before)


def _resident(field: str) -> int:
    if STATUS.is_file():
        for line in STATUS.read_text().splitlines():
            if line.startswith(field):
                return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
