"""The state of jobs at work in blocks: which are done, which are in hand, what they have cost.

Counted in Redis, so that whoever completes a stage knows it. All of it can be made anew from the objects that are
there: an object is the truth of its block.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from service.storage.keys import PREFIX
from service.storage.redis import reachable

# A block is counted once, however often it is delivered; so are its passes and seconds.
# KEYS: stage's digests, job's figures. ARGV: number, digest, passes, seconds, peak, rows with gradients.
_JOIN = """
local first = redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
if first == 1 then
  redis.call('HINCRBYFLOAT', KEYS[2], 'passes', ARGV[3])
  redis.call('HINCRBYFLOAT', KEYS[2], 'seconds', ARGV[4])
  redis.call('HINCRBYFLOAT', KEYS[2], 'gradients', ARGV[6])
  local peak = tonumber(redis.call('HGET', KEYS[2], 'peak') or '0')
  if tonumber(ARGV[5]) > peak then redis.call('HSET', KEYS[2], 'peak', ARGV[5]) end
end
return {first, redis.call('HLEN', KEYS[1])}
"""
_AT_ONCE = 10_000
_LINGER_SECONDS = 86_400
STAGES = (
    *("sums", "rotate", "squares", "fit", "solve", "contract", "predict"),
    *("retrain", "finish"),
)


@dataclass(frozen=True)
class Figures:
    """What a job's blocks have cost so far, and since when it has been at work, in seconds of Redis's clock."""

    passes: float = 0.0
    seconds: float = 0.0
    peak_bytes: int = 0
    elapsed: float = 0.0
    gradient_rows: int = 0


class Grids:
    """All jobs' blocks. A block's name is `stage-number`."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis
        self._join = redis.register_script(_JOIN)

    def open(self, id: str) -> None:
        """Begins to count a job's time, once."""
        with reachable():
            self._redis.hsetnx(_figures(id), "began", self._now())

    def close(self, id: str) -> None:
        """Forgets all of a job that has ended."""
        with reachable():
            self._redis.unlink(*_all(id))

    def linger(self, id: str) -> None:
        """All of a job that is about to end is forgotten in a day, whoever dies before it is closed."""
        with reachable(), self._redis.pipeline(transaction=False) as pipeline:
            for key in _all(id):
                pipeline.expire(key, _LINGER_SECONDS)
            pipeline.execute()

    def join(
        self, id: str, stage: str, number: int, digest: str, cost: tuple[float, float, int, int]
    ) -> tuple[bool, int]:
        """A block is done: whether this was not known, and how many of the stage are now.

        `cost`: passes, seconds, peak bytes, training rows with gradients.
        """
        with reachable():
            first, count = self._join(
                keys=[_stage(id, stage), _figures(id)],
                args=[number, bytes.fromhex(digest.removeprefix("sha256:")), *cost],
            )
        return bool(first), int(count)

    def mark(self, id: str, stage: str, numbers: Iterable[int]) -> None:
        """Blocks whose objects were there before."""
        marked = dict.fromkeys(numbers, b"")
        if marked:
            with reachable():
                self._redis.hset(_stage(id, stage), mapping=marked)

    def counts(self, id: str, stages: Sequence[str]) -> list[int]:
        """Blocks done, stage by stage."""
        with reachable(), self._redis.pipeline(transaction=False) as pipeline:
            for stage in stages:
                pipeline.hlen(_stage(id, stage))
            return [int(count) for count in pipeline.execute()]

    def missing(self, id: str, stage: str, numbers: Sequence[int]) -> list[int]:
        """Those of these blocks that are not done."""
        found: list[int] = []
        for start in range(0, len(numbers), _AT_ONCE):
            here = numbers[start : start + _AT_ONCE]
            with reachable():
                digests = self._redis.hmget(_stage(id, stage), here)
            found += [
                number for number, digest in zip(here, digests, strict=True) if digest is None
            ]
        return found

    def digests(self, id: str, stage: str) -> dict[int, str]:
        """The digests of a stage's objects, as far as their writers told them."""
        found: dict[int, str] = {}
        with reachable():
            for number, digest in self._redis.hscan_iter(_stage(id, stage), count=1000):
                if digest:
                    found[int(number)] = f"sha256:{digest.hex()}"
        return found

    def enter(self, id: str, block: str) -> None:
        """A worker has a block in hand, under a lease that it has taken before."""
        with reachable():
            self._redis.hset(_hand(id), block, 0.0)

    def inside(self, id: str, block: str, fraction: float) -> float:
        """How far a block in hand is; answers the sum over all that are."""
        with reachable(), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.hset(_hand(id), block, round(fraction, 4))
            pipeline.hvals(_hand(id))
            return sum(float(value) for value in pipeline.execute()[1])

    def leave(self, id: str, block: str) -> int:
        """The worker has it in hand no more; how many blocks are in hand still."""
        with reachable(), self._redis.pipeline() as pipeline:
            pipeline.hdel(_hand(id), block)
            pipeline.hlen(_hand(id))
            return int(pipeline.execute()[1])

    def in_hand(self, id: str) -> list[str]:
        """The blocks that workers have, or had when they died."""
        with reachable():
            return [block.decode() for block in self._redis.hkeys(_hand(id))]

    def fallen(self, id: str, block: str) -> int:
        """A try at a block has come to nothing; how many have."""
        with reachable():
            return int(self._redis.hincrby(_lost(id), block, 1))

    def forgive(self, id: str) -> None:
        """All blocks have all their tries again."""
        with reachable():
            self._redis.delete(_lost(id))

    def stage_began(self, id: str, stage: str, done: int) -> tuple[float, int]:
        """Seconds since a stage was first seen, with how many of its blocks were done then."""
        names = (f"began-{stage}", f"done-{stage}")
        now = self._now()
        with reachable(), self._redis.pipeline(transaction=False) as pipeline:
            for name, value in zip(names, (now, done), strict=True):
                pipeline.hsetnx(_figures(id), name, value)
            pipeline.hmget(_figures(id), *names)
            began, before = pipeline.execute()[2]
        return now - float(began), int(before)

    def figures(self, id: str) -> Figures:
        """What the blocks have cost so far."""
        names = ("passes", "seconds", "peak", "began", "gradients")
        with reachable():
            passes, seconds, peak, began, gradients = (
                float(value or 0) for value in self._redis.hmget(_figures(id), *names)
            )
        elapsed = self._now() - began if began else 0.0
        return Figures(passes, seconds, int(peak), elapsed, int(gradients))

    def _now(self) -> float:
        with reachable():
            seconds, micros = self._redis.time()
        return float(seconds) + float(micros) / 1e6


def _all(id: str) -> list[str]:
    return [_figures(id), _hand(id), _lost(id), *(_stage(id, stage) for stage in STAGES)]


def _figures(id: str) -> str:
    return f"{PREFIX}:grid:{id}"


def _stage(id: str, stage: str) -> str:
    return f"{PREFIX}:grid:{id}:{stage}"


def _hand(id: str) -> str:
    return f"{PREFIX}:grid:{id}:hand"


def _lost(id: str) -> str:
    return f"{PREFIX}:grid:{id}:lost"
