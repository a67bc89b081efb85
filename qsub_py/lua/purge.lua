-- Delete a job (or a schedule) that ended, with all that belongs to it.
-- KEYS  meta
-- ARGV  ended before (ms); or, whenever it ended, this very job
-- Returns 1 when one was deleted, else 0; call again while it is 1. -N: job N still needs this very job.
-- Replay: deletes the next one, which has ended as long ago; the very job is gone.
--- @include head
tick()
local function is_old(name) return redis.call('ZRANGEBYSCORE', P .. name, '-inf', '(' .. ARGV[1], 'LIMIT', 0, 1)[1] end
local named = ARGV[2]
local id = not named and is_old('ended')
if named then id = redis.call('ZSCORE', P .. 'ended', named) and named end
local schedule = not id and not named and is_old('schedules_ended')
if not id and not schedule then return 0 end
id = id or schedule

-- Whether a job that has not ended needs it; those of a slice that have ended are forgotten.
local function is_needed(name, pattern)
  local members = redis.call('ZRANGE', key(name, id), 0, SLICE - 1)
  for i = 1, #members do
    local child = string.match(members[i], pattern)
    if child ~= id and redis.call('ZSCORE', P .. 'active', child) then return child end
    redis.call('ZREM', key(name, id), members[i])
  end
  return #members == SLICE and nil
end
local by_kids = is_needed('kids', '^([^:]*)')
local by_users = is_needed('uses', '^[^:]*:([^:]*)')
if named and (by_kids or by_users) then return -tonumber(by_kids or by_users) end
if by_kids or by_users then
  -- Its retention begins anew.
  redis.call('ZADD', P .. 'ended', math.max(NOW, tonumber(ARGV[1])), id)
  return 1
end
if by_kids == nil or by_users == nil then return 1 end
local blobs = redis.call('SRANDMEMBER', key('blobs', id), SLICE)
for i = 1, #blobs do
  local is_shared = redis.call('HEXISTS', P .. 'refs', blobs[i]) == 1
  if not is_shared or redis.call('HINCRBY', P .. 'refs', blobs[i], -1) <= 0 then
    redis.call('UNLINK', key('blob', blobs[i]))
    redis.call('HDEL', P .. 'refs', blobs[i])
  end
  redis.call('SREM', key('blobs', id), blobs[i])
end
if #blobs == SLICE then return 1 end
local token = redis.call('HGET', key(schedule and 's' or 'j', id), 'token')
if token then redis.call('UNLINK', key('tok', token)) end
if schedule then
  redis.call('UNLINK', key('s', id), key('fires', id), key('waits', id), key('blobs', id))
  redis.call('ZREM', P .. 'schedules_ended', id)
  return 1
end
redis.call('UNLINK', key('j', id), key('st', id), key('at', id), key('ct', id), key('again', id), key('rt', id), key('later', id),
  key('on', id), key('unfit', id), key('args', id), key('res', id), key('rx', id), key('tail', id),
  key('files', id), key('blobs', id), key('deps', id), key('kids', id), key('in', id), key('ptr', id),
  key('uses', id), key('grids', id))
redis.call('ZREM', P .. 'ended', id)
redis.call('ZREM', P .. 'due', id)
return 1
