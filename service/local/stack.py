"""The supervisor's work: start Redis, front end and workers, keep them alive, stop them in order."""

from __future__ import annotations

import os
import signal
import sys
import time
from threading import Event
from typing import IO

from service.local.folder import locked, no_room
from service.local.format import brought_up_to_date
from service.local.health import address, is_ready, reachable
from service.local.keeper import Keeper
from service.local.plan import Plan
from service.local.ports import free_port, is_free
from service.local.process import Log, Process
from service.local.redis_server import RedisServer
from service.local.state import State
from service.local.trouble import LocalTrouble
from service.local.watchdog import Watchdog

READY_SECONDS = 120.0  # a worker imports torch, from a cold disk at first
FULL_SECONDS = 15.0  # on a disk without room: waiting makes none
WORK_SECONDS = 20.0  # for front end and workers to finish what they are at; Redis has 5 more


class Stack:
    """The service on one machine; one stack a data folder."""

    def __init__(self, plan: Plan, log: Log) -> None:
        self.plan = plan
        self._log = log
        self._keepers: list[Keeper] = []
        self._redis: RedisServer | None = None
        self._lock: IO[str] | None = None
        self._watchdog: Watchdog | None = None
        self._state: State | None = None

    @property
    def state(self) -> State:
        """Addresses and process ids of the started stack."""
        if self._state is None:
            raise RuntimeError("the stack has not been started")
        return self._state

    def start(self, stopping: Event) -> None:
        """Start everything and return once it is ready, or once `stopping` is set."""
        plan = self.plan
        self._lock = locked(plan.data)
        State.forget(plan.data)  # of one that was killed
        words = brought_up_to_date(plan.data)
        if words is not None:
            self._log("local", words)
        if not is_free(plan.host, plan.port):
            raise LocalTrouble(
                f"Port {plan.port} of {plan.host} is taken or not allowed: choose another with --port."
            )
        self._watchdog = Watchdog(hold=self._lock)
        environment = plan.environment(
            os.environ, plan.redis_url or self._start_redis(self._watchdog)
        )
        programs = {"front": "service"} | {
            f"worker-{i + 1}": "workers" for i in range(plan.workers)
        }
        for name, module in programs.items():
            command = [sys.executable, "-m", module]
            process = Process(
                name, command, watchdog=self._watchdog, environment=environment, log=self._log
            )
            self._keepers.append(Keeper(process, longest_pause=plan.longest_pause))
            self._keepers[-1].start()
        self._state = State(
            url=address(plan.host, plan.port),
            redis_url=environment["UPWEIGHT_REDIS_URL"],
            storage=environment["UPWEIGHT_STORAGE"],
            pid=os.getpid(),
            pids=self._pids(),
        )
        self._state.write(plan.data)
        self._wait_until_ready(stopping)

    def tend(self) -> None:
        """Start again what has died; to be called every moment."""
        changed = False
        for keeper in self._keepers:
            try:
                words = keeper.tend()
            except LocalTrouble as trouble:  # tried again after a longer pause
                words = str(trouble)
            if words:
                self._log(keeper.process.name, words)
                changed = True
        if changed:
            self._state = self.state.model_copy(update={"pids": self._pids()})
            try:
                self._state.write(self.plan.data)
            except LocalTrouble as trouble:  # a full disk ends nothing that runs
                self._log("local", str(trouble))

    def stop(self) -> None:
        """Front end and workers first, Redis last: they still have things to write."""
        last = [self._redis.process] if self._redis is not None else []
        first = [keeper.process for keeper in self._keepers if keeper.process not in last]
        for process in first:
            process.send(signal.SIGTERM)
        deadline = time.monotonic() + WORK_SECONDS
        for process in first:
            if not process.wait(max(0.0, deadline - time.monotonic())):
                self._log(process.name, f"did not stop within {WORK_SECONDS:.0f} s and is killed")
                process.kill()
        if self._redis is not None:
            self._redis.stop()
        if self._watchdog is not None:
            self._watchdog.close()
        if self._state is not None:
            State.forget(self.plan.data)
        if self._lock is not None:
            self._lock.close()

    def _start_redis(self, watchdog: Watchdog) -> str:
        self._redis = RedisServer(self.plan.data / "redis", watchdog=watchdog, log=self._log)
        self._keepers.append(
            Keeper(self._redis.process, self._redis.start, self.plan.longest_pause)
        )
        self._keepers[-1].start()
        return self._redis.url

    def _wait_until_ready(self, stopping: Event) -> None:
        began = time.monotonic()
        while not is_ready(reachable(self.plan.host), self.plan.port):
            for keeper in self._keepers:
                process = keeper.process
                if (
                    not process.running
                ):  # now it is a mistake of set-up; later it would be an accident
                    process.wait(1.0)
                    raise LocalTrouble(
                        f"{process.name} ended with code {process.returncode} before the service was ready."
                        + no_room(self.plan.data)
                    )
            waited, full = time.monotonic() - began, no_room(self.plan.data)
            if waited > READY_SECONDS or (full and waited > FULL_SECONDS):
                raise LocalTrouble(f"The service was not ready after {waited:.0f} s.{full}")
            if stopping.wait(0.1):
                return
        self._state = self.state.model_copy(update={"ready": True})
        self._state.write(self.plan.data)

    def _pids(self) -> dict[str, int]:
        return {keeper.process.name: keeper.process.pid for keeper in self._keepers}


def chosen_port(host: str, port: int) -> int:
    """The port itself, or a free one for 0."""
    return port or free_port(host)
