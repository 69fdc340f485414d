"""Mutated archives through the isolated child, as a worker checks a model.

    python -m tests.programs.fuzzing --first 0 --count 2000

reads so many mutants, many in one child for speed. One that ends its child is read again in a child of its own, which
must end with a problem in words. Prints what became of how many, and each finding with its number, by which it can
be made again (`--first NUMBER --count 1`).
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.programs.mutants import mutant
from tests.programs.tampering import Members, members_of
from tests.programs.zoo import CASES, export
from workers.programs.errors import CheckCrashed, CheckDied, CheckFailed, ProgramError
from workers.programs.isolation import run_isolated

ZOO = ("mlp", "cnn", "attention", "residual-decomposed", "recurrent")
MEMORY = 4 << 30
SECONDS = 60.0
LOSS = {"name": "cross_entropy"}
_AT_ONCE = 100


def check_each(path: str, names: Sequence[str]) -> dict[str, Any]:
    """In the child: what becomes of each archive of a folder, and the seconds that it took."""
    from workers.checks import check_model

    found: dict[str, tuple[str, float]] = {}
    for name in names:
        began = time.monotonic()
        try:
            report = check_model("pt2", f"{path}/{name}", LOSS, ["*"], "sanitized")
            outcome = "refused with its loss" if "refusal" in report else "ready"
        except ProgramError as error:
            outcome = error.code
        except MemoryError:
            outcome = "program-check-memory"
        except BaseException as error:
            outcome = f"unforeseen: {type(error).__name__}: {str(error)[:200]}"
        found[name] = (outcome, time.monotonic() - began)
    return {"found": found}


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
        for start in range(first, first + count, _AT_ONCE):
            self._together(range(start, min(start + _AT_ONCE, first + count)))

    def _together(self, numbers: range) -> None:
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            for number in numbers:
                Path(folder, str(number)).write_bytes(mutant(number, self.bases))
            self._read(folder, list(numbers))

    def _read(self, folder: str, numbers: list[int]) -> None:
        """Halves those among which one ends the child, until it is alone."""
        try:
            found = check_together(folder, [str(number) for number in numbers])
        except CheckFailed as error:
            if len(numbers) > 1:
                half = len(numbers) // 2
                self._read(folder, numbers[:half])
                self._read(folder, numbers[half:])
                return
            self._alone(Path(folder, str(numbers[0])), numbers[0], error)
            return
        for name, (outcome, seconds) in found.items():
            self._note(int(name), outcome, seconds)

    def _alone(self, path: Path, number: int, error: CheckFailed) -> None:
        try:
            check_alone(path)
        except ProgramError as problem:
            self._note(number, f"{problem.code}: {problem.message[:120]}", 0.0)
        else:
            self.findings.append(f"{number}: ended its child ({error}) among others, but not alone")

    def _note(self, number: int, outcome: str, seconds: float) -> None:
        self.outcomes[outcome.partition(":")[0]] += 1
        self.slowest = max(self.slowest, (seconds, number))
        if outcome.startswith(("unforeseen", CheckCrashed.code, CheckDied.code)):
            self.findings.append(f"{number}: {outcome}")


def check_together(folder: str, names: Sequence[str]) -> dict[str, tuple[str, float]]:
    """`check_each` in one isolated child; raises CheckFailed when one of them ends it."""
    command = {
        "call": "tests.programs.fuzzing:check_each",
        "arguments": {"path": folder, "names": list(names)},
    }
    found: dict[str, tuple[str, float]] = run_isolated(
        command, timeout_s=SECONDS, memory_bytes=MEMORY
    )["found"]
    return found


def check_alone(path: Path, timeout_s: float = SECONDS) -> dict[str, Any]:
    """What a worker does with an archive; raises ProgramError."""
    arguments = {
        "format": "pt2",
        "path": str(path),
        "loss": LOSS,
        "parameters": ["*"],
        "pt2_policy": "sanitized",
    }
    command = {"call": "workers.checks:check_model", "arguments": arguments}
    return run_isolated(command, timeout_s=timeout_s, memory_bytes=MEMORY)


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
