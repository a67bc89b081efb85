-- Shared head: the prefix of all keys, the server's clock, the served time, the schema.
-- KEYS[1] is <prefix>meta; every other name is built from its prefix (one slot).
local P = string.sub(KEYS[1], 1, -5)
local LEASE_MS = 60000
local SLICE = 256
local function key(name, id) return P .. name .. ':' .. id end

-- The one place that reads a clock. A cluster called test-* may set its own, and its lease.
local function clock()
  if string.sub(P, 1, 11) == '{qsub:test-' then
    local set = redis.call('GET', P .. 'test_now')
    if set then return tonumber(set) end
  end
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local NOW = clock()
if string.sub(P, 1, 11) == '{qsub:test-' then
  LEASE_MS = tonumber(redis.call('GET', P .. 'test_lease') or LEASE_MS)
end
local meta = redis.call('HMGET', KEYS[1], 'schema', 'clk', 'served', 'runid', 'epoch', 'caps', 'saving')
if meta[1] and meta[1] ~= '1' then
  return redis.error_reply('SCHEMA the data have schema ' .. meta[1] .. ', this program knows 1')
end
local SERVED = tonumber(meta[3] or 0)
local EPOCH = tonumber(meta[5] or 0)

-- Served time: an outage, a suspend or a jump of the clock costs a lease at most 3 s of it.
local function tick()
  -- At maxmemory a script is refused at its first write that may grow, unless it wrote before.
  redis.call('UNLINK', P .. 'nothing')
  local gap = NOW - tonumber(meta[2] or NOW)
  if gap < 0 then gap = 0 elseif gap > 3000 then gap = 3000 end
  SERVED = SERVED + gap
  redis.call('HSET', KEYS[1], 'schema', 1, 'clk', NOW, 'served', SERVED)
end
