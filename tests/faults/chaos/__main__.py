"""The command: prints what was done, what became of it, and ends with 1 when anything was lost."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from service.local.watchdog import Watchdog
from tests.faults.chaos.run import run
from tests.s3_server import s3_server


def main() -> int:
    """See the package."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--job-seconds", type=float, default=0.0, help="from one job to the next")
    parser.add_argument("--log", type=Path, help="what the service writes goes there")
    parser.add_argument(
        "--evidence",
        type=Path,
        default=Path("chaos-evidence"),
        help="results with other bytes than a calm run's are kept in this folder",
    )
    parser.add_argument("--fault", action="append", default=[], help="this kind; may be repeated")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="upweight-chaos-") as folder,
        Watchdog(grace_seconds=2.0) as watchdog,
        s3_server(watchdog) as s3,
    ):
        report = run(
            Path(folder),
            60 * options.minutes,
            options.seed,
            s3,
            evidence=options.evidence,
            log=options.log,
            kinds=options.fault,
            job_seconds=options.job_seconds,
            tell=_tell,
        )
    sys.stdout.write(json.dumps(report.as_dict(), indent=2) + "\n")
    return 1 if report.losses else 0


def _tell(words: str) -> None:
    sys.stderr.write(f"{words}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
