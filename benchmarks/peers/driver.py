"""Runs the contestants of a case in turn, each in a process of its own, round after round.

What a process gave goes to a record at once, so that a run that is cut short is gone on with.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.answers import reference
from benchmarks.peers.cases import Case, Contestant
from benchmarks.peers.environments import python_of
from benchmarks.peers.machine import described, gemm_rate
from benchmarks.peers.outcome import Measured
from benchmarks.peers.places import ROOT
from benchmarks.peers.problem import prepared
from benchmarks.peers.record import Line, Record, Setting, outcome_of
from benchmarks.peers.spec import Spec

OUT_OF_MEMORY = ("can't allocate memory", "MemoryError", "bad_alloc", "out of memory")

# Of the seconds, for calls that are over by then: imports and the last answer need some, too.
PART_FOR_CALLS = 0.8


@dataclass(frozen=True)
class Limits:
    """Of every process: torch threads, seconds, GiB of address space."""

    threads: int = 2
    seconds: float = 600.0
    memory: float = 17.0


def run(case: Case, rounds: int, limits: Limits, record: Record) -> None:
    """Every contestant once a round, in the case's order; what the record has is not done again."""
    problem = prepared(case.model)
    scale = reference(case).scale if case.method == "lissa" else 0.0
    setting = Setting(described(), limits.threads)
    pythons = {each.library: python_of(each.library) for each in case.contestants}
    for number in range(rounds):
        gemm = 0.0
        for position, contestant in enumerate(case.contestants):
            known = outcome_of(case.name, record.lines(case.name, setting))
            done = number in known.measured[contestant.label]
            if done or (contestant.once and number) or known.failed(contestant.label):
                continue
            gemm = gemm or gemm_rate(limits.threads)
            told = Spec(
                case.name,
                position,
                problem,
                scale,
                limits.threads,
                limits.memory,
                PART_FOR_CALLS * limits.seconds,
            )
            result = _process(pythons[contestant.library], told, case, limits)
            record.add(Line(case.name, contestant.label, number, setting, gemm, result))
            _tell(case, contestant, result)


def _process(python: Path, told: Spec, case: Case, limits: Limits) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        spec, out = Path(folder) / "spec.json", Path(folder) / "out"
        told.write(spec)
        command = [str(python), "-m", "benchmarks.peers.worker", str(spec), str(out)]
        try:
            done = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=limits.seconds
            )
        except subprocess.TimeoutExpired:
            return Measured(failure=f"> {limits.seconds:.0f} s", at_least=limits.seconds)
        if done.returncode:
            return Measured(failure=_why(done, limits))
        found = json.loads(out.with_suffix(".json").read_text())
        return Measured(
            tuple(found["seconds"]),
            found["peak_bytes"],
            found["products"],
            found["notes"],
            reference(case, found["block"]).accuracy(case, out.with_suffix(".npz")),
        )


def _why(done: subprocess.CompletedProcess[str], limits: Limits) -> str:
    if any(sign in done.stderr for sign in OUT_OF_MEMORY):
        return f"out of memory at {limits.memory:g} GiB"
    if done.returncode < 0:
        return f"ended by signal {-done.returncode}"
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return lines[-1][:200]


def _tell(case: Case, contestant: Contestant, result: Measured) -> None:
    seconds = ", ".join(f"{each:.2f}" for each in result.seconds)
    print(f"  {case.name}: {contestant.label}: {result.failure or seconds + ' s'}", flush=True)
