"""The Lua scripts that count the requests, tokens and open requests of a key in Redis. Each runs there as one step.

A key has two entries. A hash holds the last second, both sums, and one bucket for each of the last 60 seconds. A sorted set
holds the open requests with the time at which their lease ends. Redis's own clock counts, so the clocks of hosts may differ.
"""

_ADVANCE = """
local now = redis.call('TIME')
local second = tonumber(now[1])
local milliseconds = second * 1000 + math.floor(tonumber(now[2]) / 1000)
local found = redis.call('HMGET', KEYS[1], 'at', 'r', 't')
local last, requests, tokens = tonumber(found[1]), tonumber(found[2]) or 0, tonumber(found[3]) or 0
if last and second < last and second > last - 60 then
  second = last
end
if not last or second <= last - 60 or second >= last + 60 then
  redis.call('DEL', KEYS[1])
  requests, tokens, last = 0, 0, nil
end
local passed = {}
if last and second > last then
  for one = last + 1, second do
    passed[#passed + 1] = 'r' .. one % 60
    passed[#passed + 1] = 't' .. one % 60
  end
  local old = redis.call('HMGET', KEYS[1], unpack(passed))
  for place = 1, #old, 2 do
    requests = requests - (tonumber(old[place]) or 0)
    tokens = tokens - (tonumber(old[place + 1]) or 0)
  end
  redis.call('HDEL', KEYS[1], unpack(passed))
end
"""

_KEEP = """
redis.call('HSET', KEYS[1], 'at', second, 'r', requests, 't', tokens)
redis.call('EXPIRE', KEYS[1], 120)
"""

# KEYS: counts, open requests. ARGV: rpm, tpm, parallel (-1: no limit), the request ("": only look), its lease in milliseconds.
# Returns the limit that does not admit it or "", the seconds to wait, requests, tokens, open requests.
BEGIN = (
    _ADVANCE
    + """
local rpm, tpm, parallel = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local counted = 0
if parallel >= 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', milliseconds)
  counted = redis.call('ZCARD', KEYS[2])
end
local function wait(kind, surplus)
  for after = 1, 60 do
    surplus = surplus - (tonumber(redis.call('HGET', KEYS[1], kind .. (second + after) % 60)) or 0)
    if surplus < 0 then
      return after
    end
  end
  return 60
end
local refused, seconds = '', 0
if ARGV[4] ~= '' then
  if parallel >= 0 and counted >= parallel then
    refused, seconds = 'parallel', 1
  elseif rpm >= 0 and requests >= rpm then
    refused, seconds = 'requests', wait('r', requests - rpm)
  elseif tpm >= 0 and tokens >= tpm then
    refused, seconds = 'tokens', wait('t', tokens - tpm)
  else
    requests = requests + 1
    redis.call('HINCRBY', KEYS[1], 'r' .. second % 60, 1)
    if parallel >= 0 then
      counted = counted + 1
      redis.call('ZADD', KEYS[2], milliseconds + ARGV[5], ARGV[4])
      redis.call('PEXPIRE', KEYS[2], ARGV[5])
    end
  end
end
"""
    + _KEEP
    + "return {refused, seconds, requests, tokens, counted}"
)

# KEYS: counts. ARGV: tokens.
TOKENS = (
    _ADVANCE
    + """
tokens = tokens + ARGV[1]
redis.call('HINCRBY', KEYS[1], 't' .. second % 60, ARGV[1])
"""
    + _KEEP
)

# KEYS: open requests. ARGV: the lease in milliseconds, then each request that is still open.
RENEW = """
local now = redis.call('TIME')
local ends = now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[1]
for place = 2, #ARGV do
  redis.call('ZADD', KEYS[1], ends, ARGV[place])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
"""
