"""The floor of a worker: of the tasks that it has in hand one computes, and the others wait for their turn.

A task that takes long gives the floor up between two batches: to a task of another namespace that it finds in the
queue, and from then on by turns, so that a job of days does not keep the only worker from others. Each task has a
thread of its own, for what torch keeps for a thread, and what it keeps for the process is put back whenever a task goes
on. Tasks of one namespace share models and rows on the device, and so are never in hand together.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from workers.process.watch import GivenBack

# Of computing, at first and before the next in hand goes on: short tasks are left alone.
SLICE_SECONDS = 0.25
LOOK_SECONDS = 0.05  # of computing, after the first slice, before somebody else is looked for
VACATE_SECONDS = 3.0
Taken = tuple[str, Callable[[], object]]  # a task: its namespace, and what does it


@dataclass(eq=False)
class _Place:
    """A task in hand."""

    namespace: str
    came: float = field(default_factory=time.monotonic)  # to the floor
    look_at: float = 0.0
    is_to_end: Callable[[], bool] = lambda: False


class Floor:
    """Of one worker. `most` tasks are in hand at a time; with 1 nobody gives way."""

    def __init__(self, most: int, device: torch.device | None = None) -> None:
        self.take: Callable[[Collection[str]], Taken | None] = lambda namespaces: None
        self._most, self._device = most, device
        self._changed = threading.Condition()
        self._places: list[_Place] = []
        self._waiting: deque[_Place] = deque()
        self._holder: _Place | None = None
        self._vacated = False
        self._mine = threading.local()
        self._globals = _Globals.now()

    @contextmanager
    def held(self, namespace: str) -> Iterator[None]:
        """A task is done in this thread, which has the floor: the worker's own, or one that was given it."""
        if getattr(self._mine, "place", None) is not None:
            yield
            return
        place = self._enter(namespace)
        self._mine.place = place
        try:
            yield
        finally:
            self._mine.place = None
            self._leave(place)

    def wait_until_free(self) -> None:
        """Returns when no task is in hand."""
        with self._changed:
            self._changed.wait_for(lambda: not self._places)

    def vacate(self) -> None:
        """Has the tasks that wait for the floor given back, before the process of the one that holds it is replaced."""
        with self._changed:
            self._vacated = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._places) <= 1, VACATE_SECONDS)

    def give_way(self, is_to_end: Callable[[], bool] = lambda: False) -> float:
        """Between two batches of a task: lets others go on, if it is their turn. Answers the seconds that took.

        A task that `is_to_end` does not give way, and has the floor next if it waits. Raises GivenBack when the floor
        is vacated.
        """
        place: _Place | None = getattr(self._mine, "place", None)
        if place is None or self._most < 2 or is_to_end():
            return 0.0
        place.is_to_end = is_to_end
        now = time.monotonic()
        next = self._next(place, now)
        if next is None:
            return 0.0
        self._pass(next, place)
        # A sixth of the worker at least: what comes in between has the floor for five looks at most.
        place.look_at = place.came + LOOK_SECONDS
        return place.came - now

    def _next(self, place: _Place, now: float) -> _Place | None:
        """Whose turn it is instead of the one at `place`, who asks."""
        for each in self._waiting:
            if each.is_to_end():
                return each
        if now < place.look_at:
            return None
        place.look_at = now + LOOK_SECONDS
        if len(self._places) < self._most and not self._vacated:
            taken = self.take([each.namespace for each in self._places])
            if taken is not None:
                return self._begun(*taken)
        if self._waiting and now - place.came >= SLICE_SECONDS:
            return self._waiting[0]
        return None

    def _begun(self, namespace: str, run: Callable[[], object]) -> _Place:
        place = _Place(namespace)
        with self._changed:
            self._places.append(place)
            self._waiting.append(place)
        threading.Thread(target=self._aside, args=(place, run), name="aside", daemon=True).start()
        return place

    def _enter(self, namespace: str) -> _Place:
        place = _Place(namespace, look_at=time.monotonic() + SLICE_SECONDS)
        with self._changed:
            self._changed.wait_for(lambda: self._holder is None)
            self._places.append(place)
            self._holder = place
        return place

    def _leave(self, place: _Place) -> None:
        with self._changed:
            self._places.remove(place)
            if self._holder is place:
                self._holder = self._waiting.popleft() if self._waiting else None
            self._changed.notify_all()

    def _pass(self, next: _Place, place: _Place) -> None:
        """Hands the floor on, and waits until it comes back."""
        kept = _Globals.now()
        with self._changed:
            self._waiting.append(place)
            self._waiting.remove(next)
            self._holder = next
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._holder is place or self._vacated)
            if self._holder is not place:
                self._waiting.remove(place)
                raise GivenBack
        kept.put_back()
        place.came = time.monotonic()

    def _aside(self, place: _Place, run: Callable[[], object]) -> None:
        self._mine.place = place
        with self._changed:
            self._changed.wait_for(lambda: self._holder is place)
        try:
            if self._device is not None and self._device.type == "cuda":
                torch.cuda.set_device(self._device)
            self._globals.put_back()
            place.came = time.monotonic()
            place.look_at = place.came + SLICE_SECONDS
            run()
        finally:
            self._leave(place)


@dataclass(frozen=True)
class _Globals:
    """What torch keeps for the whole process, and a task may have changed for a while."""

    threads: int
    fastpath: bool
    matmul: str
    attention: tuple[bool, ...]

    @classmethod
    def now(cls) -> _Globals:
        backends: Any = torch.backends.cuda
        return cls(
            torch.get_num_threads(),
            torch.backends.mha.get_fastpath_enabled(),
            torch.get_float32_matmul_precision(),
            tuple(getattr(backends, f"{name}_sdp_enabled")() for name in _ATTENTION),
        )

    def put_back(self) -> None:
        backends: Any = torch.backends.cuda
        torch.set_num_threads(self.threads)
        torch.backends.mha.set_fastpath_enabled(self.fastpath)
        torch.set_float32_matmul_precision(self.matmul)
        for name, enabled in zip(_ATTENTION, self.attention, strict=True):
            getattr(backends, f"enable_{name}_sdp")(enabled)


_ATTENTION = ("flash", "mem_efficient", "math", "cudnn")
