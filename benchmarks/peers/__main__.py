"""`python -m benchmarks.peers`: every case, or those named, and the tables of what was measured."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.peers.cases import CASES
from benchmarks.peers.driver import Limits, run
from benchmarks.peers.machine import described, gemm_rate
from benchmarks.peers.report import table, values


def main() -> None:
    """Run, print, and write the values where asked."""
    arguments = _arguments()
    limits = Limits(arguments.threads, arguments.timeout, arguments.memory)
    begun = gemm_rate(limits.threads)
    print(f"{described()}; {limits.threads} threads; {begun:.0f} GFLOP/s in float32 at the start")
    outcomes = []
    for name in arguments.case or CASES:
        outcomes.append(run(CASES[name], arguments.rounds, limits))
        print(table(outcomes[-1], begun), flush=True)
    ended = gemm_rate(limits.threads)
    print(f"\n{ended:.0f} GFLOP/s at the end (the share of GEMM is of the rate at the start)")
    if arguments.json:
        kept = {
            "machine": described(),
            "threads": limits.threads,
            "gemm_gflops": [begun, ended],
            "outcomes": [values(each) for each in outcomes],
        }
        arguments.json.write_text(json.dumps(kept, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--case", action="append", choices=sorted(CASES), help="again for more")
    parser.add_argument("--rounds", type=int, default=3, help="of all contestants in turn")
    parser.add_argument("--json", type=Path, help="a file for the values")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds a process")
    parser.add_argument("--memory", type=float, default=17.0, help="GiB of address space a process")
    return parser.parse_args()


if __name__ == "__main__":
    main()
