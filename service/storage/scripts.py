"""The Lua scripts by which records change: each is one step for every other client of Redis."""

# KEYS: record, idempotency ('' for none), then records that must exist, then indexes.
# ARGV: id, doc, fingerprint, seconds, number of required, member of indexes' change message, channel.
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
redis.call('HSET', KEYS[1], 'doc', ARGV[2], 'token', 1, 'revision', 1)
for i = 3 + required, #KEYS do redis.call('ZADD', KEYS[i], 0, ARGV[1]) end
if KEYS[2] ~= '' then
  redis.call('HSET', KEYS[2], 'fingerprint', ARGV[3], 'id', ARGV[1])
  redis.call('EXPIRE', KEYS[2], ARGV[4])
end
redis.call('PUBLISH', ARGV[7], ARGV[6])
return {'made', ARGV[1]}
"""

# A change of state ends what was live.
# KEYS: record, index to leave ('' for none), index to enter ('' for none). ARGV: id, token, doc, message, channel.
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
redis.call('PUBLISH', ARGV[5], ARGV[4])
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

# KEYS: record, users, then indexes. ARGV: id, token, message, channel.
DELETE = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[2] then return {'changed'} end
if redis.call('ZCARD', KEYS[2]) > 0 then return {'used', redis.call('ZRANGE', KEYS[2], 0, 4)} end
redis.call('DEL', KEYS[1])
for i = 3, #KEYS do redis.call('ZREM', KEYS[i], ARGV[1]) end
redis.call('PUBLISH', ARGV[4], ARGV[3])
return {'deleted'}
"""
