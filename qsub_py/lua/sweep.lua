-- Take the work from nodes whose lease lapsed (one node a call), close open jobs whose client
-- is silent. Any node may call it, there is no leader.
-- KEYS  meta
-- Returns {how much is left, mass lapse (0 or 1)}; call again while the first is not 0.
-- Replay: a lapsed node has left `nodes`, a closed job `open`.
--- @include head job node batch

tick()
local silent = redis.call('ZRANGEBYSCORE', P .. 'open', '-inf', SERVED, 'LIMIT', 0, 16)
for i = 1, #silent do
  redis.call('ZREM', P .. 'open', silent[i])
  local j = load(silent[i])
  if j and j.open == 1 then
    j.open = 0
    settle(j)
  end
end

-- A node whose lease lapsed is fenced at once; what it held is taken from it in slices.
local uid = redis.call('SRANDMEMBER', P .. 'lapsing')
if not uid then
  local lapsed = redis.call('ZRANGEBYSCORE', P .. 'nodes', '-inf', SERVED)
  if #lapsed == 0 then
    redis.call('HDEL', KEYS[1], 'mass_since')
    return {0, 0}
  end
  -- More than half of three or more at once: it is the server's side. Wait ten leases.
  local total = redis.call('ZCARD', P .. 'nodes')
  if total >= 3 and #lapsed * 2 > total then
    redis.call('HSETNX', KEYS[1], 'mass_since', SERVED)
    if SERVED < tonumber(redis.call('HGET', KEYS[1], 'mass_since')) + 10 * LEASE_MS then return {0, 1} end
  end
  uid = lapsed[1]
  redis.call('ZREM', P .. 'nodes', uid)
  redis.call('ZREM', P .. 'idle', uid)
  if saving() and saving().node == uid then end_saving(uid) end
  redis.call('SREM', P .. 'rec', uid)
  redis.call('HSET', key('node', uid), 'state', 'lost', 'reason', 'its lease lapsed')
end

local slots, dropped = redis.call('HKEYS', key('slots', uid)), 0
for i = 1, #slots do
  local b = load_batch(uid, slots[i])
  local j = load(b.job)
  -- An attempt that must not be reissued stays its node's, who may come back with it.
  if not j or j.requeue ~= 0 then
    if dropped >= MOST_DROPPED then
      redis.call('SADD', P .. 'lapsing', uid)
      return {1, 0}
    end
    dropped = dropped + cost(b)
    drop_batch(uid, b, 13, nil)
  else
    bury_batch(uid, b, j)
    settle(j)
  end
end
redis.call('SREM', P .. 'lapsing', uid)
return {redis.call('ZCOUNT', P .. 'nodes', '-inf', SERVED) + redis.call('SCARD', P .. 'lapsing'), 0}
