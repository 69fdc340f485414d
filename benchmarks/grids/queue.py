"""100,000 blocks enqueued and worked off by an engine that does nothing: `python -m benchmarks.grids.queue`."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis

from service.lifecycle.states import now
from service.local.redis_server import RedisServer
from service.local.watchdog import Watchdog
from service.settings import Settings
from service.storage.cuts import Cut
from service.storage.keys import new_id
from service.storage.queue import RUN_BLOCK
from workers.jobs.plan import Plan
from workers.jobs.tasks import BlockTask
from workers.process.context import Context
from workers.process.worker import WarmWorker

COUNT = 100_000
SECONDS = 15.0
NAMESPACE = "default"


class NoEngine:
    """Counts a block as done without computing anything."""

    def __init__(self, context: Context) -> None:
        self._grids = context.grids

    def run(self, namespace: str, job: dict[str, Any], stage: str, number: int, watch: Any) -> None:
        """In the place of what computes a block."""
        self._grids.join(job["id"], stage, number, "sha256:" + "ab" * 32, (1.0, 0.0, 1, 0.0))


def work(settings: Settings) -> None:
    """One worker until it is ended."""
    context = Context.build(settings)
    task = BlockTask(context, {})
    task._execute = NoEngine(context).run  # type: ignore[method-assign]
    tasks = {RUN_BLOCK: task.run}
    WarmWorker(["default"], context.redis, context.name, tasks, context.stopping).work(
        logging_level="WARNING"
    )


def job_of(plan: Plan, context: Context) -> str:
    """A running job of such a plan."""
    id = new_id("job")
    document = {
        "id": id, "state": "running", "attempt": 1, "model_id": "mdl_x", "train_id": "dst_x",
        "hessian_id": "dst_x", "created_at": now(), "plan": plan.to_json(), "shared": [],
        "request": {"priority": "default", "timeout_s": None},
    }  # fmt: skip
    context.records.create("job", NAMESPACE, document)
    context.grids.open(id)
    return id


@contextmanager
def queue_apart() -> Iterator[tuple[Settings, Context, Any]]:
    """A Redis of its own for as long as the context is open: settings, a worker's parts, and a client."""
    with tempfile.TemporaryDirectory() as folder, Watchdog(grace_seconds=2.0) as watchdog:
        server = RedisServer(Path(folder) / "redis", watchdog=watchdog)
        server.start()
        try:
            settings = Settings(redis_url=server.url, storage=f"{folder}/objects", device="cpu")
            yield settings, Context.build(settings), Redis.from_url(server.url)
        finally:
            server.stop()


def plan_of(blocks: int) -> Plan:
    """That many blocks to contract, and nothing else."""
    return Plan(True, 1, Cut(1, 1), Cut(1, 1), Cut(blocks, 1), solves=False)


def main() -> None:
    """Prints the figures."""
    with queue_apart() as (settings, context, client):
        id, before = job_of(plan_of(COUNT), context), client.info("memory")["used_memory"]
        began = time.perf_counter()
        blocks = [f"contract-{number}" for number in range(COUNT)]
        context.queue.enqueue_blocks(NAMESPACE, id, blocks)
        took = time.perf_counter() - began
        bytes_each = (client.info("memory")["used_memory"] - before) / COUNT
        print(f"{COUNT} blocks enqueued in {took:.1f} s; {bytes_each:.0f} bytes of Redis each")
        for workers in (1, 2):
            rate = throughput(workers, settings, context, id)
            print(f"{workers} workers: {rate:.0f} tasks a second")
        began = time.perf_counter()
        context.queue.drop_blocks(id, "default")
        print(f"the rest taken out of the queue in {time.perf_counter() - began:.1f} s")


def throughput(workers: int, settings: Settings, context: Context, id: str) -> float:
    """Tasks a second."""
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=work, args=(settings,), daemon=True) for _ in range(workers)]
    for each in processes:
        each.start()
    try:
        first = context.grids.counts(id, ["contract"])[0]
        while context.grids.counts(id, ["contract"])[0] < first + 200:
            time.sleep(0.05)
        began, done = time.perf_counter(), context.grids.counts(id, ["contract"])[0]
        time.sleep(SECONDS)
        return (context.grids.counts(id, ["contract"])[0] - done) / (time.perf_counter() - began)
    finally:
        for each in processes:
            each.kill()
            each.join()


if __name__ == "__main__":
    main()
