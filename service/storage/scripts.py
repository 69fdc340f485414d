"""The Lua scripts by which records change: each is one step for every other client of Redis."""

# KEYS: record, idempotency ('' for none), then records that must exist, then indexes.
# ARGV: id, doc, fingerprint, seconds, number of required, change message, channel, set of unsaved records, then the
# score in each index; and where there must be room, how many records may be listed, and the indexes that list them.
CREATE = """
if KEYS[2] ~= '' then
  local seen = redis.call('HMGET', KEYS[2], 'fingerprint', 'id')
  if seen[1] then
    if seen[1] == ARGV[3] then return {'seen', seen[2]} end
    return {'conflict'}
  end
end
local required = tonumber(ARGV[5])
for i = 3, 2 + required do
  if redis.call('EXISTS', KEYS[i]) == 0 then return {'missing', tostring(i - 3)} end
end
local room = 7 + #KEYS - required
if ARGV[room] then
  local there = 0
  for i = room + 1, #ARGV do there = there + redis.call('ZCARD', ARGV[i]) end
  if there >= tonumber(ARGV[room]) then return {'crowded', there} end
end
redis.call('HSET', KEYS[1], 'doc', ARGV[2], 'token', 1, 'revision', 1)
redis.call('SADD', ARGV[8], ARGV[6])
for i = 3 + required, #KEYS do redis.call('ZADD', KEYS[i], ARGV[6 - required + i], ARGV[1]) end
if KEYS[2] ~= '' then
  redis.call('HSET', KEYS[2], 'fingerprint', ARGV[3], 'id', ARGV[1])
  redis.call('EXPIRE', KEYS[2], ARGV[4])
  redis.call('HSET', KEYS[1], 'idempotency', KEYS[2], 'fingerprint', ARGV[3])
end
redis.call('PUBLISH', ARGV[7], ARGV[6])
return {'made', ARGV[1]}
"""

# A change of state ends what was live.
# KEYS: record, index to leave ('' for none), index to enter ('' for none); with an announcement its `keys`.
# ARGV: id, token, doc, message, channel, set of unsaved records ('' for a state that is not kept); its `arguments`.
REPLACE = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'doc', ARGV[3])
redis.call('HINCRBY', KEYS[1], 'token', 1)
redis.call('HINCRBY', KEYS[1], 'revision', 1)
if KEYS[2] ~= '' then
  redis.call('ZREM', KEYS[2], ARGV[1])
  redis.call('HDEL', KEYS[1], 'live')
end
if KEYS[3] ~= '' then redis.call('ZADD', KEYS[3], 0, ARGV[1]) end
if ARGV[6] ~= '' then redis.call('SADD', ARGV[6], ARGV[4]) end
redis.call('PUBLISH', ARGV[5], ARGV[4])
if KEYS[4] then
  local time = redis.call('TIME')
  redis.call('HSET', KEYS[4], ARGV[7], ARGV[8])
  redis.call('EXPIRE', KEYS[4], ARGV[9])
  redis.call('ZADD', KEYS[5], time[1] * 1000 + math.floor(time[2] / 1000), ARGV[10])
  redis.call('SADD', KEYS[6], ARGV[11])
end
return 1
"""

# KEYS: record. ARGV: live, message, channel.
LIVE = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'live', ARGV[1])
redis.call('HINCRBY', KEYS[1], 'revision', 1)
redis.call('PUBLISH', ARGV[3], ARGV[2])
return 1
"""

# KEYS: record, users, then indexes. ARGV: id, token, message, channel, sets of unsaved and of deleted records.
DELETE = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[2] then return {'changed'} end
if redis.call('ZCARD', KEYS[2]) > 0 then return {'used', redis.call('ZRANGE', KEYS[2], 0, 4)} end
redis.call('DEL', KEYS[1])
for i = 3, #KEYS do redis.call('ZREM', KEYS[i], ARGV[1]) end
redis.call('SREM', ARGV[5], ARGV[3])
redis.call('SADD', ARGV[6], ARGV[3])
redis.call('PUBLISH', ARGV[4], ARGV[3])
return {'deleted'}
"""

# After a copy was written: it is the last state, or there is a newer one to copy.
# KEYS: record, set of unsaved records, set of deleted records. ARGV: member, token of the copy.
SAVED = """
local token = redis.call('HGET', KEYS[1], 'token')
if token == ARGV[2] then
  redis.call('SREM', KEYS[2], ARGV[1])
elseif token then
  redis.call('SADD', KEYS[2], ARGV[1])
end
return redis.call('SISMEMBER', KEYS[3], ARGV[1])
"""

# A record from its copy, unless there is one, or it has just been deleted.
# KEYS: record, idempotency ('' for none), set of deleted records, then indexes.
# ARGV: id, doc, fingerprint, seconds that the idempotency key has left, message, channel, set of unsaved records, then
# the score in each index.
RESTORE = """
if redis.call('SISMEMBER', KEYS[3], ARGV[5]) == 1 then return 'deleted' end
if redis.call('EXISTS', KEYS[1]) == 1 then return 'there' end
redis.call('HSET', KEYS[1], 'doc', ARGV[2], 'token', 1, 'revision', 1)
for i = 4, #KEYS do redis.call('ZADD', KEYS[i], ARGV[4 + i], ARGV[1]) end
if KEYS[2] ~= '' and tonumber(ARGV[4]) > 0 then
  redis.call('HSET', KEYS[2], 'fingerprint', ARGV[3], 'id', ARGV[1])
  redis.call('EXPIRE', KEYS[2], ARGV[4])
  redis.call('HSET', KEYS[1], 'idempotency', KEYS[2], 'fingerprint', ARGV[3])
end
redis.call('SADD', ARGV[7], ARGV[5])
redis.call('PUBLISH', ARGV[6], ARGV[5])
return 'restored'
"""

# KEYS: hash of versions. ARGV: name, a version that was given.
RAISE_VERSION = """
local given = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0')
if given >= tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
"""

# An entry in an index for a record that is still there. KEYS: record, index. ARGV: id, score.
ENTER = """
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1]) end
return 1
"""
