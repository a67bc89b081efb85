-- A node joins, or its agent has a new connection. The first hello to a new server process
-- opens a recovery: nothing is claimed until every leased node has reconciled or a lease passed.
-- KEYS  meta
-- ARGV  node uid, server's run id, last epoch heard of (-1: none), name, cpus, mem, gpus,
--       queues, pythons, then pairs field, value for display (host user version features ...)
-- Returns {'ok', incarnation, epoch, now ms, lease ms, is recovering};
--         {'name', other uid} when a live node has that name.
-- Replay: a second hello makes a newer incarnation, which the agent that hears it uses.
--- @include head job node batch

tick()
local uid, runid, name = ARGV[1], ARGV[2], ARGV[4]
local other = redis.call('HGET', P .. 'names', name)
if other and other ~= uid and redis.call('ZSCORE', P .. 'nodes', other) then return {'name', other} end
local me = key('node', uid)

-- A new epoch, and job numbers that were never given out. An older copy of the data may have
-- forgotten epochs too: the agents remember.
local function next_epoch()
  local new = math.max(EPOCH, tonumber(ARGV[3])) + 1
  redis.call('HINCRBY', KEYS[1], 'job', 1000 * (new - EPOCH))
  redis.call('HSET', KEYS[1], 'epoch', new)
  EPOCH = new
end

if meta[4] ~= runid then
  redis.call('HSET', KEYS[1], 'runid', runid)
  if meta[4] then
    next_epoch()
    redis.call('DEL', P .. 'rec')
    local leased = redis.call('ZRANGE', P .. 'nodes', 0, -1)
    for i = 1, #leased do redis.call('SADD', P .. 'rec', leased[i]) end
    if #leased > 0 then redis.call('HSET', KEYS[1], 'rec_until', SERVED + LEASE_MS) end
  end
end
if tonumber(ARGV[3]) >= EPOCH and redis.call('HGET', me, 'run') ~= runid then next_epoch() end
local inc = redis.call('HINCRBY', me, 'inc', 1)
local was, old_name = unpack(redis.call('HMGET', me, 'state', 'name'))
if old_name and old_name ~= name and redis.call('HGET', P .. 'names', old_name) == uid then
  redis.call('HDEL', P .. 'names', old_name)
end
local free, mem_free, gpus = tonumber(ARGV[5]), tonumber(ARGV[6]), {}
for g = 0, tonumber(ARGV[7]) - 1 do gpus[tostring(g)] = true end
local slots = redis.call('HKEYS', key('slots', uid))
for i = 1, #slots do
  local b = load_batch(uid, slots[i])
  free, mem_free = free - b.cpus, mem_free - b.mem
  for g in string.gmatch(b.gpus, '%d+') do gpus[g] = nil end
end
local gpus_free = {}
for g = 0, tonumber(ARGV[7]) - 1 do
  if gpus[tostring(g)] then gpus_free[#gpus_free + 1] = g end
end
redis.call('HSET', me, 'name', name, 'cpus', ARGV[5], 'mem', ARGV[6], 'gpus', ARGV[7], 'queues', ARGV[8],
  'pythons', ARGV[9], 'req', 0, 'reply', '', 'run', runid, 'cpus_free', free, 'mem_free', mem_free,
  'gpus_free', table.concat(gpus_free, ','), 'state', was == 'draining' and 'draining' or 'up', 'seen', NOW,
  'gpus_busy', '', 'gpus_why', '')
for i = 10, #ARGV, 2 do redis.call('HSET', me, ARGV[i], ARGV[i + 1]) end
redis.call('HSET', P .. 'names', name, uid)
redis.call('ZADD', P .. 'nodes', SERVED + LEASE_MS, uid)
redis.call('SADD', P .. 'known', uid)
redis.call('ZREM', P .. 'idle', uid)
redis.call('SREM', P .. 'lapsing', uid)
return {'ok', inc, EPOCH, NOW, LEASE_MS, redis.call('SCARD', P .. 'rec')}
