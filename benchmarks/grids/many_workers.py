"""What 1,000 workers ask of one Redis, from fewer that do all that a worker does but compute.

    python -m benchmarks.grids.many_workers [workers] [seconds of a block]

Each is a thread with the worker's own code: it takes blocks from the queue by turns, holds leases, looks whether its
job is cancelled, reports, joins, and beside it renews its sign of life and looks for records to copy. What is counted
is Redis's own: commands, and seconds of its one core, so that a slow or busy machine changes little.
"""

from __future__ import annotations

import multiprocessing
import sys
import threading
import time
from statistics import median
from typing import Any

from rq import SimpleWorker

from benchmarks.grids.queue import NAMESPACE, job_of, plan_of, queue_apart
from service.settings import Settings
from service.storage.queue import RUN_BLOCK, DoorbellQueue
from service.storage.workers import register
from workers.jobs.tasks import BlockTask
from workers.process.background import Background
from workers.process.context import Context
from workers.process.worker import WarmWorker

PROCESSES, SECONDS, REPORTS = 4, 20.0, 20
WHOLE = 1_000


def work(settings: Settings, threads: int, seconds: float, waits: Any) -> None:
    """So many workers, until the process is ended."""
    context = Context.build(settings)

    def pretend(namespace: str, job: dict[str, Any], stage: str, number: int, watch: Any) -> None:
        """In the place of what computes a block."""
        for done in range(REPORTS):
            time.sleep(seconds / REPORTS)
            watch.progress(stage, done, REPORTS, "rows")
        context.grids.join(job["id"], stage, number, "sha256:" + "ab" * 32, (1.0, 0.0, 1, 0.0))

    def one(number: int) -> None:
        name = f"{context.name}-{number}"
        task = BlockTask(context, {})
        task._execute = pretend  # type: ignore[method-assign]
        worker = WarmWorker(
            ["high", "default", "low"], context.redis, name, {RUN_BLOCK: task.run}, context.stopping
        )
        told = {"device": "cpu", "queues": ["default"]}
        for title, act, pause in (
            ("life", lambda: register(context.redis, name, told, 15), 4.0),
            ("copies", context.copies.save_noted, 0.25),
        ):
            Background(title, act, context.stopping, pause).start()
        while True:
            began = time.perf_counter()
            found = DoorbellQueue.dequeue_any(
                worker.queues, None, context.redis, serializer=worker.serializer
            )
            waits.put(time.perf_counter() - began)
            SimpleWorker.execute_job(worker, *found)

    for number in range(threads):
        threading.Thread(target=one, args=(number,), daemon=True).start()
    threading.Event().wait()


def main() -> None:
    """Prints the figures."""
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 10.0
    with queue_apart() as (settings, context, client):
        count = int(4 * workers * (60 / seconds + 1))
        id = job_of(plan_of(count), context)
        blocks = [f"contract-{number}" for number in range(count)]
        context.queue.enqueue_blocks(NAMESPACE, id, blocks)
        spawn = multiprocessing.get_context("spawn")
        waits = spawn.Queue()
        processes = [
            spawn.Process(
                target=work,
                args=(settings, workers // PROCESSES, seconds, waits),
                daemon=True,
            )
            for _ in range(PROCESSES)
        ]
        for each in processes:
            each.start()
        while len(context.grids.in_hand(id)) < workers // PROCESSES * PROCESSES:
            time.sleep(0.2)
        time.sleep(seconds / 2)
        before, began = spent(client), time.perf_counter()
        time.sleep(max(SECONDS, 2 * seconds))
        after, took = spent(client), time.perf_counter() - began
        for process in processes:
            process.kill()
            process.join()
        tell(workers, seconds, [(b - a) / took for a, b in zip(before, after, strict=True)])
        found = sorted(waits.get() for _ in range(waits.qsize()))
        print(
            f"taking a block: {1000 * median(found):.1f} ms in the median, "
            f"{1000 * found[int(0.99 * len(found))]:.1f} ms of p99, seen from a worker on this machine"
        )


def spent(client: Any) -> tuple[float, float, float]:
    """Commands so far, scripts' own among them; seconds of Redis's core; bytes in and out."""
    cpu, stats = client.info("cpu"), client.info("stats")
    seconds = cpu["used_cpu_user_main_thread"] + cpu["used_cpu_sys_main_thread"]
    traffic = stats["total_net_input_bytes"] + stats["total_net_output_bytes"]
    return stats["total_commands_processed"], seconds, traffic


def tell(workers: int, seconds: float, rates: list[float]) -> None:
    """Of these workers, and of a thousand."""
    for count in (workers, WHOLE):
        commands, core, traffic = (rate * count / workers for rate in rates)
        print(
            f"{count:>5} workers at blocks of {seconds:g} s{'' if count == workers else ', scaled up'}: "
            f"{commands:.0f} commands a second, {100 * core:.1f} % of Redis's core, {traffic / 1e6:.1f} MB/s"
        )


if __name__ == "__main__":
    main()
