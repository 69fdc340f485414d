"""`python -m workers`: one process, one device, warm until SIGTERM."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from typing import NoReturn

import torch

from service.logs import configure, log
from service.malloc import (
    give_back_what_is_free,
    keep_one_arena,
    keep_what_a_pass_frees,
)
from service.private import keep_files_private
from service.settings import Settings
from service.storage.questions import RUN_QUESTION
from service.storage.queue import (
    CHECK_DATASET,
    CHECK_MODEL,
    CHECK_PRIORITY,
    PRIORITIES,
    RUN_BLOCK,
    RUN_JOB,
)
from service.tracing import Tracing
from upweight.errors import UpweightError
from workers.checks.tasks import CheckTasks
from workers.indexes.answering import Answering
from workers.jobs.tasks import BlockTask, JobTask
from workers.kinds import KINDS
from workers.process.background import Background
from workers.process.context import Context
from workers.process.devices import warm_up
from workers.process.heartbeat import Heartbeat
from workers.process.replacement import begin_anew, taken_over
from workers.process.worker import WarmWorker
from workers.programs.fork_server import ForkServer
from workers.upkeep.recover import Recovery
from workers.upkeep.retention import Retention

REPLICATION_SECONDS = 0.25
REPLICATION_SECONDS_AFTER_FAILURE = 5.0


def main(arguments: list[str] | None = None) -> int:
    """Runs until SIGTERM. Answers the exit status."""
    left = taken_over()
    keep_one_arena()
    keep_files_private()
    keep_what_a_pass_frees()
    options = _parser().parse_args(arguments)
    overrides = {
        name: value
        for name, value in vars(options).items()
        if name != "queues" and value is not None
    }
    settings = Settings(**overrides)
    configure(settings.log_level)
    names = [name.strip() for name in options.queues.split(",") if name.strip()]
    unknown = sorted(set(names) - set(PRIORITIES))
    if unknown or not names:
        log("unknown-queues", level="error", unknown=unknown, known=PRIORITIES)
        return 2
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    try:
        context = Context.build(settings, begin_anew)
        tracing = Tracing.open(settings, "worker")
    except UpweightError as error:
        log("cannot-start", level="error", detail=error.detail)
        return 1
    warm_up(context.device)
    gc.freeze()  # modules, which stay: the collector then has little to look at when a model goes
    Heartbeat(context, names).start()
    server = ForkServer("workers.checks.model:prepare") if CHECK_PRIORITY in names else None
    if server is not None and settings.fork_ahead:
        server.start()
    Recovery(context).start()
    Retention(context).start()
    # Of records that have changed. Each worker does it: several at the same records do no harm.
    Background(
        "replication",
        context.copies.save_noted,
        context.stopping,
        REPLICATION_SECONDS,
        pause_after_failure=REPLICATION_SECONDS_AFTER_FAILURE,
    ).start()
    checks, jobs = CheckTasks(context, server), JobTask(context, KINDS)
    if left is not None:
        jobs.clear_left(*left)
    worker = WarmWorker(
        names,
        context.redis,
        context.name,
        {
            RUN_JOB: jobs.run,
            RUN_BLOCK: BlockTask(context, KINDS).run,
            RUN_QUESTION: Answering(context, server).run,
            CHECK_MODEL: checks.check_model,
            CHECK_DATASET: checks.check_dataset,
        },
        context.stopping,
        understood=settings.contract,
        tracing=tracing,
        afterwards=give_back_what_is_free,
        floor=context.floor,
    )
    worker.work(logging_level="WARNING")
    context.stopping.set()
    tracing.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m workers", description=__doc__)
    parser.add_argument(
        "--queues", default=",".join(PRIORITIES), help="in order of priority, comma-separated"
    )
    parser.add_argument("--device", help="auto, cpu, cuda:0, …")
    parser.add_argument("--threads", type=int, help="CPU threads")
    return parser


def run() -> NoReturn:
    """As a process of its own, which ends at once: taking torch apart costs most of a second."""
    status = main()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


if __name__ == "__main__":
    run()
