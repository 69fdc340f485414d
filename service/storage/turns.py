"""Turns: of all namespaces that wait for a worker, the one goes first whose last turn is longest ago.

A queue is, in Redis, a list of tasks for each namespace (`<queue>:of:<namespace>`), the namespaces that have one,
sorted by their last turn (`<queue>:turns`), and the namespace of each task (`<queue>:waiting`). In a queue of blocks a
namespace's list is of jobs, which take turns in the same way, and each job has its list of tasks (`<queue>:in:<job>`).
Every change is one script, so that whoever dies leaves a task in one place. Redis Cluster, where keys of one script
must lie on one node, is not supported.

A higher priority goes first: within a namespace always, among namespaces until its namespace has had `AHEAD` of the
last `REMEMBERED` turns. From then on it waits for its turn like the others, so that urgency alone keeps nobody waiting.

A plain list under the queue's own name is what earlier versions have left, or still put there; it is drained first.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from redis import Redis

from service.storage.keys import PREFIX

REMEMBERED, AHEAD = 8, 4
BLOCKS_SUFFIX = "-blocks"
_SERVED = f"{PREFIX}:served"  # namespaces by their last turn
_TURNS = f"{PREFIX}:turns"  # whose the last turns were

_COMMON = """
local function group_of(queue, id)
  if string.sub(queue, -7) == '-blocks' then return string.match(id, '^[^-]*') end
end
local function of(queue, namespace) return queue .. ':of:' .. namespace end
local function inside(queue, group) return queue .. ':in:' .. group end
local function leave(queue, namespace)
  if redis.call('EXISTS', of(queue, namespace)) == 0 then
    redis.call('ZREM', queue .. ':turns', namespace)
  end
end
"""

# A task that waits already is not put there again.
# KEYS: queue, the task's hash, served. ARGV: id, whether at the front.
_PUSH = (
    _COMMON
    + """
local queue, id = KEYS[1], ARGV[1]
if redis.call('HEXISTS', queue .. ':waiting', id) == 1 then return 0 end
local read, meta = pcall(cjson.decode, redis.call('HGET', KEYS[2], 'meta') or '')
local namespace = ''
if read and type(meta) == 'table' and type(meta.namespace) == 'string' then namespace = meta.namespace end
local push = ARGV[2] == '1' and 'LPUSH' or 'RPUSH'
local group = group_of(queue, id)
if not group then
  redis.call(push, of(queue, namespace), id)
elseif redis.call(push, inside(queue, group), id) == 1 then
  redis.call(push, of(queue, namespace), group)
end
redis.call('HSET', queue .. ':waiting', id, namespace)
local last = redis.call('ZSCORE', KEYS[3], namespace) or 0
redis.call('ZADD', queue .. ':turns', 'NX', last, namespace)
return 1
"""
)

# The next task, moved to its queue's intermediate list as RQ's LMOVE does.
# KEYS: served, turns, then the queues to take from in order of priority, then all queues.
# ARGV: how many to take from, turns remembered, turns ahead, then the namespaces whose turn it is not.
_POP = (
    _COMMON
    + """
local count, excepted = tonumber(ARGV[1]), {}
for i = 4, #ARGV do excepted[ARGV[i]] = true end
local first, longest, since
for i = 3, 2 + count do
  local queue = KEYS[i]
  if #ARGV == 3 then
    local id = redis.call('LMOVE', queue, queue .. ':intermediate', 'LEFT', 'RIGHT')
    if id then return {queue, id} end
  end
  local heads = redis.call('ZRANGE', queue .. ':turns', 0, #ARGV - 3, 'WITHSCORES')
  for j = 1, #heads, 2 do
    if not excepted[heads[j]] then
      first = first or heads[j]
      if not since or tonumber(heads[j + 1]) < since then longest, since = heads[j], tonumber(heads[j + 1]) end
      break
    end
  end
end
if not first then return false end
local namespace = first
if first ~= longest then
  local had = 0
  for _, each in ipairs(redis.call('LRANGE', KEYS[2], 0, ARGV[2] - 1)) do
    if each == first then had = had + 1 end
  end
  if had >= tonumber(ARGV[3]) then namespace = longest end
end
local queue, id
for i = 3, 2 + count do
  queue = KEYS[i]
  if redis.call('ZSCORE', queue .. ':turns', namespace) then
    id = redis.call('LPOP', of(queue, namespace))
    if group_of(queue, '') then
      local group = id
      id = redis.call('LPOP', inside(queue, group))
      if redis.call('EXISTS', inside(queue, group)) == 1 then redis.call('RPUSH', of(queue, namespace), group) end
    end
    leave(queue, namespace)
    break
  end
end
redis.call('HDEL', queue .. ':waiting', id)
redis.call('RPUSH', queue .. ':intermediate', id)
local turn = (tonumber(redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]) or 0) + 1
redis.call('ZADD', KEYS[1], turn, namespace)
for i = 3, #KEYS do redis.call('ZADD', KEYS[i] .. ':turns', 'XX', turn, namespace) end
redis.call('LPUSH', KEYS[2], namespace)
redis.call('LTRIM', KEYS[2], 0, ARGV[2] - 1)
return {queue, id}
"""
)

# KEYS: queue. ARGV: id.
_REMOVE = (
    _COMMON
    + """
local queue, id = KEYS[1], ARGV[1]
local namespace = redis.call('HGET', queue .. ':waiting', id)
if not namespace then return redis.call('LREM', queue, 1, id) end
redis.call('HDEL', queue .. ':waiting', id)
local group = group_of(queue, id)
if not group then
  redis.call('LREM', of(queue, namespace), 1, id)
else
  redis.call('LREM', inside(queue, group), 1, id)
  if redis.call('EXISTS', inside(queue, group)) == 0 then redis.call('LREM', of(queue, namespace), 1, group) end
end
leave(queue, namespace)
return 1
"""
)

# All tasks of a job in a queue of blocks; answers their ids. KEYS: queue. ARGV: job.
_DROP = (
    _COMMON
    + """
local queue, group = KEYS[1], ARGV[1]
local dropped = redis.call('LRANGE', inside(queue, group), 0, -1)
if #dropped > 0 then
  local namespace = redis.call('HGET', queue .. ':waiting', dropped[1])
  for start = 1, #dropped, 1000 do
    redis.call('HDEL', queue .. ':waiting', unpack(dropped, start, math.min(start + 999, #dropped)))
  end
  redis.call('DEL', inside(queue, group))
  redis.call('LREM', of(queue, namespace), 1, group)
  leave(queue, namespace)
end
for _, id in ipairs(redis.call('LRANGE', queue, 0, -1)) do
  if group_of(queue, id) == group then
    redis.call('LREM', queue, 1, id)
    table.insert(dropped, id)
  end
end
return dropped
"""
)

# How many tasks of this queue come before one, as far as is known now. KEYS: queue. ARGV: id.
_POSITION = (
    _COMMON
    + """
local queue, id = KEYS[1], ARGV[1]
local namespace = redis.call('HGET', queue .. ':waiting', id)
if not namespace then return redis.call('LPOS', queue, id) end
local place = redis.call('LPOS', of(queue, namespace), id) or 0
local before, rounds = redis.call('LLEN', queue) + place, place + 1
for _, other in ipairs(redis.call('ZRANGE', queue .. ':turns', 0, -1)) do
  if other == namespace then
    rounds = place
  else
    before = before + math.min(rounds, redis.call('LLEN', of(queue, other)))
  end
end
return before
"""
)

# When the first task of those that come next was put there, '' where none waits. KEYS: queue. ARGV: tasks' prefix.
_OLDEST = (
    _COMMON
    + """
local queue, oldest = KEYS[1], ''
local function look(id)
  local at = id and redis.call('HGET', ARGV[1] .. id, 'enqueued_at')
  if at and (oldest == '' or at < oldest) then oldest = at end
end
look(redis.call('LINDEX', queue, 0))
for _, namespace in ipairs(redis.call('ZRANGE', queue .. ':turns', 0, -1)) do
  local id = redis.call('LINDEX', of(queue, namespace), 0)
  look(group_of(queue, '') and redis.call('LINDEX', inside(queue, id), 0) or id)
end
return oldest
"""
)


class Turns:
    """The queues of one Redis, by their keys. Ids are text; what goes wrong in Redis is raised as it is."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis
        names = {"push": _PUSH, "pop": _POP, "remove": _REMOVE, "drop": _DROP}
        names |= {"position": _POSITION, "oldest": _OLDEST}
        self._scripts: dict[str, Any] = {
            name: redis.register_script(script) for name, script in names.items()
        }

    def push(self, queue: str, task: str, id: str, *, first: bool = False, client: Any) -> None:
        """Puts a task, whose hash `task` tells its namespace, at the end of its list or before it.

        `client`: the connection, or a pipeline that has written that hash before.
        """
        self._scripts["push"](keys=[queue, task, _SERVED], args=[id, int(first)], client=client)

    def pop(
        self, queues: Sequence[str], every: Sequence[str], excepted: Collection[str] = ()
    ) -> tuple[str, str] | None:
        """Whose turn it is: the queue and the task, which is in the queue's intermediate list from now on.

        `queues` are in order of priority, `every` are all that there are; `excepted` are namespaces passed over.
        """
        found = self._scripts["pop"](
            keys=[_SERVED, _TURNS, *queues, *every],
            args=[len(queues), REMEMBERED, AHEAD, *excepted],
        )
        return (found[0].decode(), found[1].decode()) if found else None

    def remove(self, queue: str, id: str, client: Any = None) -> Any:
        """Takes a task out; how many there were, unless `client` is a pipeline."""
        return self._scripts["remove"](keys=[queue], args=[id], client=client)

    def drop(self, queue: str, job: str) -> list[str]:
        """Takes all blocks of a job out; their ids."""
        return [id.decode() for id in self._scripts["drop"](keys=[queue], args=[job])]

    def position(self, queue: str, id: str) -> int | None:
        """How many tasks of the queue come before this one, or None when it does not wait."""
        found = self._scripts["position"](keys=[queue], args=[id])
        return None if found is None else int(found)

    def oldest(self, queue: str, prefix: str) -> str | None:
        """When the one that has waited longest was put there, of those that come next."""
        found = self._scripts["oldest"](keys=[queue], args=[prefix])
        return found.decode() or None

    def count(self, queue: str) -> int:
        """How many tasks wait."""
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.llen(queue).hlen(f"{queue}:waiting")
            return sum(pipeline.execute())

    def ids(self, queue: str) -> list[str]:
        """All tasks that wait, in no order."""
        with self._redis.pipeline() as pipeline:
            pipeline.lrange(queue, 0, -1).hkeys(f"{queue}:waiting")
            return [id.decode() for found in pipeline.execute() for id in found]

    def of(self, queue: str, namespace: str) -> list[str]:
        """A namespace's tasks in their order; in a queue of blocks, its jobs."""
        return [id.decode() for id in self._redis.lrange(f"{queue}:of:{namespace}", 0, -1)]
