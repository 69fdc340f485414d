"""What was measured: of a process, and of all processes of a case."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.peers.answers import Accuracy
from benchmarks.peers.cases import Case


@dataclass(frozen=True)
class Measured:
    """One process: seconds of each call, the first one cold; or `failure` says why there are none."""

    seconds: tuple[float, ...] = ()
    peak_bytes: int = 0
    products: int | None = None
    notes: str = ""
    accuracy: Accuracy | None = None
    failure: str = ""
    at_least: float | None = None  # seconds, of what was not done by then


@dataclass
class Outcome:
    """All processes of one case: of each contestant, by label, what each round gave."""

    case: Case
    measured: dict[str, dict[int, Measured]] = field(default_factory=dict)

    def failed(self, contestant: str) -> bool:
        """Whether a round of it came to nothing: then no other is tried."""
        return any(each.failure for each in self.measured[contestant].values())
