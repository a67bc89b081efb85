-- Hold, release or end a schedule; jobs that it made are their own.
-- KEYS  meta
-- ARGV  schedule, verb (hold, release, end), who
-- Returns {1, its last job or 0}; {0, ...} when it had ended; {-1} when there is no such schedule.
-- Replay: it is held, released or ended.
--- @include head saving
local row = redis.pcall('HMGET', key('s', ARGV[1]), 'ended', 'next', 'last')
if row.err or not row[1] then return {-1} end
local last = redis.call('ZSCORE', P .. 'active', row[3]) and tonumber(row[3]) or 0
if row[1] ~= '0' then return {0, last} end
tick()
if ARGV[2] == 'hold' then
  redis.call('HSET', key('s', ARGV[1]), 'held', 1)
  redis.call('ZREM', P .. 'beats', ARGV[1])
elseif ARGV[2] == 'release' then
  local waits = redis.call('EXISTS', key('waits', ARGV[1])) == 1
  -- A time that passed while it was held is not made up for.
  if redis.call('HGET', key('s', ARGV[1]), 'held') == '1' and tonumber(row[2]) <= NOW then
    redis.call('HSET', key('s', ARGV[1]), 'resumed', 1)
  end
  redis.call('HSET', key('s', ARGV[1]), 'held', 0)
  redis.call('ZADD', P .. 'beats', waits and NOW or row[2], ARGV[1])
  ping()
else
  redis.call('HSET', key('s', ARGV[1]), 'ended', NOW, 'next', 0, 'why', 'cancelled by ' .. ARGV[3])
  redis.call('UNLINK', key('waits', ARGV[1]))
  redis.call('ZREM', P .. 'beats', ARGV[1])
  redis.call('ZREM', P .. 'schedules', ARGV[1])
  redis.call('ZADD', P .. 'schedules_ended', NOW, ARGV[1])
end
return {1, last}
