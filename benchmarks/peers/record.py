"""Outcomes as a file of lines, one a process that ended: what is cut short goes on where it was.

Each line names its case, contestant and round, and the machine and GEMM rate it was measured at. Cases may be
run in pieces, minutes or days apart; ratios are of lines of one round, which are neighbours in time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.answers import Accuracy
from benchmarks.peers.cases import CASES
from benchmarks.peers.outcome import Measured, Outcome


@dataclass(frozen=True)
class Setting:
    """What a line was measured with; lines of another are of no use beside it."""

    machine: str
    threads: int


@dataclass(frozen=True)
class Line:
    """One process."""

    case: str
    contestant: str
    round: int
    setting: Setting
    gemm: float  # GFLOP/s, before the case was gone on with
    measured: Measured


@dataclass(frozen=True)
class Record:
    """The file; it need not be there yet."""

    path: Path

    def add(self, line: Line) -> None:
        """At the end. It begins a new line itself: the last one may have been cut off."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(asdict(line)))

    def lines(self, case: str, setting: Setting | None = None) -> list[Line]:
        """Of one case, in order, of one setting or all."""
        return [
            each for each in self._all() if each.case == case and setting in (None, each.setting)
        ]

    def cases(self) -> list[str]:
        """Those with a line, in the order of the list of cases."""
        met = {each.case for each in self._all()}
        return [name for name in CASES if name in met]

    def _all(self) -> Iterator[Line]:
        if not self.path.is_file():
            return
        for text in self.path.read_text(encoding="utf-8").splitlines():
            with suppress(json.JSONDecodeError):  # empty, or cut off by an interruption
                yield _line(json.loads(text))


def outcome_of(case: str, lines: list[Line]) -> Outcome:
    """Those lines as an outcome, by contestant and round; a round done again counts as last done."""
    found: dict[str, dict[int, Measured]] = {each.label: {} for each in CASES[case].contestants}
    for line in lines:
        if line.contestant in found:
            found[line.contestant][line.round] = line.measured
    return Outcome(CASES[case], found)


def _line(told: dict[str, Any]) -> Line:
    measured = told["measured"]
    measured["seconds"] = tuple(measured["seconds"])
    if measured["accuracy"] is not None:
        measured["accuracy"] = Accuracy(**measured["accuracy"])
    told["setting"] = Setting(**told["setting"])
    return Line(**told | {"measured": Measured(**measured)})
