"""`python -m benchmarks.peers`: every case, or those named, and the tables of what was measured.

`--rounds` are those that the file of results is to have in the end: an interrupted run is gone on with by the
same command, and `--table` prints what there is. Other results take another file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.peers.cases import CASES
from benchmarks.peers.driver import Limits, run
from benchmarks.peers.places import CACHE, ignored
from benchmarks.peers.record import Record, outcome_of
from benchmarks.peers.report import table


def main() -> None:
    """Run what is missing, and print the tables."""
    arguments = _arguments()
    record = Record(arguments.results or ignored(CACHE) / "results.jsonl")
    limits = Limits(arguments.threads, arguments.timeout, arguments.memory)
    for name in arguments.case or ([] if arguments.table else CASES):
        if not arguments.table:
            run(CASES[name], arguments.rounds, limits, record)
        _show(record, name)
    if arguments.table and not arguments.case:
        for name in record.cases():
            _show(record, name)


def _show(record: Record, name: str) -> None:
    """A table for each machine and number of threads."""
    lines = record.lines(name)
    for setting in dict.fromkeys(each.setting for each in lines):
        mine = [each for each in lines if each.setting == setting]
        rates = [each.gemm for each in mine]
        print(table(outcome_of(name, mine), max(rates)))
        print(
            f"  {setting.machine}; {setting.threads} threads; GEMM in float32, before each round: "
            f"{min(rates):.0f} to {max(rates):.0f} GFLOP/s",
            flush=True,
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--case", action="append", choices=sorted(CASES), help="again for more")
    parser.add_argument("--rounds", type=int, default=3, help="of all contestants in turn")
    parser.add_argument("--results", type=Path, help="the file; benchmarks/.cache/results.jsonl")
    parser.add_argument("--table", action="store_true", help="print the file, run nothing")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds a process")
    parser.add_argument("--memory", type=float, default=17.0, help="GiB of address space a process")
    return parser.parse_args()


if __name__ == "__main__":
    main()
