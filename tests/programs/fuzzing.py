"""Mutated archives through the isolated child, as a worker checks a model.

    python -m tests.programs.fuzzing --first 0 --count 2000

reads so many mutants, each in a child of its own, which must end with a report or a problem in words. Prints what
became of how many, and each finding with its number, by which it can be made again (`--first NUMBER --count 1`).
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.programs.mutants import mutant
from tests.programs.tampering import Members, members_of
from tests.programs.zoo import CASES, export
from workers.programs.errors import CheckCrashed, CheckDied, CheckFailed, ProgramError
from workers.programs.fork_server import ForkServer
from workers.programs.isolation import run_isolated

ZOO = ("mlp", "cnn", "attention", "residual-decomposed", "recurrent")
MEMORY = 4 << 30
SECONDS = 10.0  # some ask for operations on 2²⁴ numbers: they need not be waited for
LOSS = {"name": "cross_entropy"}
SERVER = ForkServer("workers.checks.model:prepare")  # as a worker has it


@dataclass
class Campaign:
    """Mutants read so far, and what became of them."""

    folder: Path
    bases: list[Members]
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, 0)

    @classmethod
    def of(cls, folder: Path, archives: Sequence[Path]) -> "Campaign":
        """Of mutants of these archives."""
        return cls(folder, [members_of(archive) for archive in archives])

    def run(self, first: int, count: int) -> None:
        """Reads the mutants of these numbers."""
        for number in range(first, first + count):
            path = self.folder / str(number)
            path.write_bytes(mutant(number, self.bases))
            began = time.monotonic()
            self._note(number, outcome_of(path), time.monotonic() - began)
            path.unlink()

    def _note(self, number: int, outcome: str, seconds: float) -> None:
        self.outcomes[outcome.partition(":")[0]] += 1
        self.slowest = max(self.slowest, (seconds, number))
        if outcome.startswith(("unforeseen", CheckCrashed.code, CheckDied.code)):
            self.findings.append(f"{number}: {outcome}")


def outcome_of(path: Path) -> str:
    """What becomes of an archive: what a worker does with it, in a child of its own."""
    arguments = {
        "format": "pt2",
        "path": str(path),
        "loss": LOSS,
        "parameters": ["*"],
        "pt2_policy": "sanitized",
    }
    command = {"call": "workers.checks.model:check_model", "arguments": arguments}
    try:
        report = run_isolated(command, timeout_s=SECONDS, memory_bytes=MEMORY, server=SERVER)
    except CheckFailed as error:
        return f"{error.code}: {error.message[:200]}"
    except ProgramError as error:
        return error.code
    return "refused with its loss" if "refusal" in report else "ready"


def main() -> None:
    """The long run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--count", type=int, default=2000, help="how many")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        archives = [export(CASES[name], Path(folder, f"{name}.pt2")) for name in ZOO]
        campaign = Campaign.of(Path(folder), archives)
        campaign.run(given.first, given.count)
    print(json.dumps(dict(campaign.outcomes.most_common()), indent=1))  # noqa: T201
    print("slowest: %.1f s, number %d" % campaign.slowest)  # noqa: T201, UP031
    print("\n".join(campaign.findings) or "no findings")  # noqa: T201
    raise SystemExit(bool(campaign.findings))


if __name__ == "__main__":
    main()
