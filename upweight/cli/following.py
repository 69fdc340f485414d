"""Watching a job: a bar on a terminal, a line a change elsewhere, a document a change for programs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from upweight.cli.exits import Exit, fail
from upweight.cli.shell import Shell
from upweight.progress import duration

if TYPE_CHECKING:
    from upweight.schema import JobRecord


def watched(shell: Shell, job: str) -> JobRecord:
    """The record once the job has ended, however it ended."""
    try:
        if shell.as_json or not sys.stderr.isatty():
            return _followed(shell, job)
        return _drawn(shell, job)
    except KeyboardInterrupt:
        shell.say(f"\nno longer watched, the job goes on: upweight jobs watch {job}")
        raise typer.Exit(Exit.INTERRUPTED) from None


def ended(shell: Shell, record: JobRecord) -> None:
    """Ends with 1, and the reason, unless the job has a result."""
    from upweight.http.polling import failure

    error = failure(record)
    if error is not None:
        fail(error, shell.as_json)
        raise typer.Exit(Exit.FAILED)


def _drawn(shell: Shell, job: str) -> JobRecord:
    from upweight.errors import UpweightError
    from upweight.http.polling import ended as has_ended

    try:
        return shell.client.jobs.wait(job)
    except UpweightError:
        record = shell.client.jobs.get(job)
        if not has_ended(record):
            raise
        return record


def _followed(shell: Shell, job: str) -> JobRecord:
    from upweight.http.polling import LONG, stage_in_words

    shown = ""
    record = None
    for record in shell.client.jobs.events(job):
        if shell.as_json:
            shell.document(record)
            continue
        progress = record.progress
        done = f" {progress.done:,} of {progress.total:,} {progress.unit}" if progress else ""
        left = record.eta_seconds or 0.0
        takes = f", about {duration(left)} left" if left >= LONG else ""
        line = f"{record.id} {stage_in_words(record)}{done}{takes}"
        if line != shown:
            shell.say(line)
        shown = line
    assert record is not None
    return record
